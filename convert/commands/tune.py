"""Commands of `fletcher-convert tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fletcher.runtime.commandline.console import reporter

__all__ = ["tune"]

tune = typer.Typer(no_args_is_help=True, help="Prepare training data for a model on your text.")


@tune.command("mine")
def mine(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the artifact that embeds.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File of the mined tuples, .jsonl.")],
    pairs: Annotated[
        Path, typer.Option(metavar="FILE", help="Pairs that belong together: jsonl with query and positive.")
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
        float | None,
        typer.Option(help="A candidate may score at most (1 - margin) of the least similar positive. Default: none."),
    ] = None,
    max_score: Annotated[float | None, typer.Option(help="Largest score of a negative. Default: none.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Smallest score of a negative. Default: none.")] = None,
    sampling: Annotated[
        Literal["top", "random"], typer.Option(help="Choice in the window: the nearest candidates, or random ones.")
    ] = "top",
    seed: Annotated[int, typer.Option(help="Seed of random sampling.")] = 0,
    reranker: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Artifact of a reranker, whose scores replace the cosines for margins and bounds. Default: none.",
        ),
    ] = None,
) -> None:
    """Mine hard negatives: texts that are near a query and do not belong to it. The corpus may be larger than memory."""
    from ..tune.mining.files import read_pairs
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
        reranker=None if reranker is None else str(reranker),
    )
    report.result(mine_negatives(folder, read_pairs(pairs), corpus, output, options, progress=report))
