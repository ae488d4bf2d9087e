"""`fletcher-convert quality`: measure an artifact's vectors on texts, or compare two artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.errors import InputError

__all__ = ["quality"]


def quality(
    ctx: typer.Context,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR [DIR]", help="Folder of an artifact, or of two to compare.", show_default=False),
    ],
    texts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File of texts: jsonl with text and optional _id, title and label, or a text on each line.",
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with a label on each line, one for each text. Default: those of the jsonl, if any.",
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of queries, in the same format as the texts. Default: none."),
    ] = None,
    judgments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of judgments: query id, text id and relevance, separated by tabs (BEIR), or TREC's four columns. "
            "Default: none.",
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Graph to run. Default: the one that a load chooses.")] = None,
    input_type: Annotated[
        str | None,
        typer.Option(
            help="Input type of the texts, which selects the model's prompt; queries have `query`. Default: document, or the "
            "only one of the artifact."
        ),
    ] = None,
    duplicate_cosine: Annotated[
        float, typer.Option(min=-1, max=1, help="Smallest cosine of two texts that count as near-duplicates.")
    ] = 0.95,
    min_overlap: Annotated[
        float,
        typer.Option(min=0, max=1, help="Smallest share of the ten nearest neighbors that the advised vectors keep."),
    ] = 0.95,
    save: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Report to write, .html (with a map of the texts) or .json. Repeatable. Default: none.",
        ),
    ] = None,
) -> None:
    """Measure an artifact's vectors on your texts: neighbors, duplicates, labels, retrieval, and how small they can be.

    With two folders, the artifacts are compared on the same texts.
    """
    from fletcher.runtime.commandline.report_files import check_reports

    from ..quality.inputs import make_texts, read_corpus, read_judgments, read_labels
    from ..quality.options import QualityOptions
    from ..quality.quality import compare_quality, measure_quality
    from ..quality.results import QualityResult
    from ..reports.quality.table import render_quality, write_quality

    if len(folders) > 2:
        raise InputError(
            f"quality compares at most two artifacts, and there are {len(folders)}: name one or two folders"
        )
    report, files = reporter(ctx), save or []
    check_reports(files)
    options = QualityOptions(
        variant=variant,
        input_type=input_type,
        duplicate_cosine=duplicate_cosine,
        min_overlap=min_overlap,
        with_map=any(file.suffix == ".html" for file in files),
    )
    corpus = read_corpus(texts)
    given = make_texts(
        corpus,
        name=texts.name,
        labels=None if labels is None else read_labels(labels, len(corpus.texts)),
        queries=None if queries is None else read_corpus(queries),
        judgments=None if judgments is None else read_judgments(judgments),
    )
    measured = [measure_quality(folder, given, options, progress=report) for folder in folders]
    comparison = compare_quality(measured[0], measured[1]) if len(measured) == 2 else None
    result = QualityResult(reports=tuple(one.report for one in measured), comparison=comparison)
    for file in files:
        write_quality(result, measured, file)
        report.line(f"wrote {file}")
    if report.as_json:
        report.result(result)
    else:
        from rich.console import Console

        Console().print(render_quality(result))
