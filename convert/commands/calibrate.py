"""`fletcher-convert calibrate`: turn similarities into probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError

__all__ = ["calibrate"]


def calibrate(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the artifact.", show_default=False)],
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of pairs with a line score<TAB>text<TAB>text each; for a reranker, the query is the first text.",
            show_default=False,
        ),
    ] = None,
    positive: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE", help="Smallest score of pairs that belong together. Default: the higher one of two scores."
        ),
    ] = None,
    method: Annotated[
        Literal["auto", "isotonic", "logistic"],
        typer.Option(help="Kind of function. auto: the one that predicts other pairs better."),
    ] = "auto",
    input_type: Annotated[
        str, typer.Option(help="Input type of both texts. Calibrated requests must have the same one.")
    ] = "raw",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the calibration of the artifact.")] = False,
    save: Annotated[
        list[Path] | None,
        typer.Option("--report", metavar="FILE", help="Report to write, .html or .json. Repeatable. Default: none."),
    ] = None,
) -> None:
    """Fit a function from similarities to probabilities, and write it into the artifact, whose digest changes.

    Requests with `calibrated` to `/similarity`, or to the rerank routes, are then answered with probabilities.
    """
    from fletcher.quantize.measure.pairs import read_pairs
    from fletcher.runtime.artifact.writing import calibrate as write_calibration
    from fletcher.runtime.commandline.report_files import check_reports

    from ..quality.calibration.calibrate import calibrate_artifact
    from ..reports.quality.calibration import calibration_rows, write_calibration_report

    report, files = reporter(ctx), save or []
    if (pairs is None) != remove:
        raise InputError("name pairs with --pairs FILE, or remove the calibration with --remove")
    if pairs is None:
        digest = Artifact.open(folder).digest
        report.result({"path": folder, "digest": write_calibration(folder, None, digest=digest).digest})
        return
    check_reports(files)
    found = calibrate_artifact(
        folder,
        read_pairs(pairs),
        name=pairs.name,
        positive=positive,
        method=method,
        input_type=input_type,
        progress=report,
    )
    for file in files:
        write_calibration_report(found, file)
        report.line(f"wrote {file}")
    report.line(found.sentence)
    report.result(found, Table(("probabilities", "calibration error", "Brier score"), calibration_rows(found)))
