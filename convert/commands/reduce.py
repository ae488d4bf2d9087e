"""`fletcher-convert reduce`: write an artifact with shorter vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter

__all__ = ["reduce"]


def reduce(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the float32 artifact.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder of the new artifact. An artifact in it is replaced."
        ),
    ],
    texts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File of texts, txt or jsonl, like those that will be embedded. Half of them fit PCA, and the others are "
            "measured.",
        ),
    ],
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Length of the new vectors. Default: the shortest one that keeps --min-overlap in int8.",
        ),
    ] = None,
    whiten: Annotated[
        bool,
        typer.Option(
            "--whiten",
            help="Subtract the mean, and divide each component by its standard deviation. Needs --dimensions.",
        ),
    ] = False,
    min_overlap: Annotated[
        float,
        typer.Option(min=0, max=1, help="Smallest share of the ten nearest neighbors to keep, without --dimensions."),
    ] = 0.95,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the reduced checkpoint, which the artifact is verified against. Default: that of the "
            "artifact, with -checkpoint appended.",
        ),
    ] = None,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the artifact with its checkpoint in torch. Default: do so if the extra verify is installed.",
        ),
    ] = None,
) -> None:
    """Write an artifact with PCA as its last layer, and measure the neighbors that it keeps."""
    from ..quality.inputs import read_corpus
    from ..quality.reduction.reduce import ReduceOptions, reduce_artifact

    report = reporter(ctx)
    options = ReduceOptions(
        dimensions=dimensions,
        whiten=whiten,
        min_overlap=min_overlap,
        checkpoint=None if checkpoint is None else str(checkpoint),
        verify=verify,
    )
    reduced = reduce_artifact(folder, output, read_corpus(texts).texts, options, progress=report)
    report.result(reduced)
    report.line(reduced.sentence)
