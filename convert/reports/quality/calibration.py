"""Report of a calibration as rows for the terminal, a JSON file, or an HTML page with a reliability diagram."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fletcher.runtime.commandline.pages import Page, figure, html_table, to_html
from fletcher.runtime.commandline.plots import BLUE, GREEN, RED, SOFT, to_svg
from fletcher.runtime.commandline.report_files import check_reports, write_report

from ...quality.calibration.results import CalibrationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["calibration_rows", "write_calibration_report"]


def calibration_rows(report: CalibrationReport) -> list[tuple[str, str, str]]:
    """Return name, expected calibration error and Brier score of the similarity itself and of each method."""
    return [(one.name, f"{one.error:.4f}", f"{one.brier:.4f}") for one in (report.uncalibrated, *report.fits)]


def write_calibration_report(report: CalibrationReport, path: Path) -> None:
    """Write the report by the file's suffix, `.json` or `.html`. A missing folder is created.

    Raises:
        InputError: the suffix is another one.
        MissingPackageError: matplotlib, which a page needs, is not installed.
    """
    check_reports([path])
    write_report(report, path, lambda: _to_html(report))


def _to_html(report: CalibrationReport) -> str:
    calibration = report.calibration
    body = (
        f'<tr><td>{name}</td><td class="number">{error}</td><td class="number">{brier}</td></tr>'
        for name, error, brier in calibration_rows(report)
    )
    return to_html(
        Page(
            title=f"{report.model}: calibration",
            sentences=[report.sentence],
            about=f"{calibration.pairs:,} pairs of {escape(report.source)}, of which {calibration.positive:.0%} belong "
            f"together (score at least {report.threshold:g}); {escape(report.time)}",
            parts=(
                '<div class="plots">',
                figure(
                    _plot_reliability(report),
                    "Share of the pairs that belong together, by predicted probability, on pairs that the function was not "
                    "fitted to. On the diagonal, probabilities are right.",
                ),
                figure(_plot_function(report), f"The function that was written: {calibration.method}."),
                "</div>",
                html_table(("probabilities", "#expected calibration error", "#Brier score"), body),
                f"<p>Area under the ROC curve of the {calibration.measure}: {report.roc_auc:.3f}. A calibration does not "
                "change the order.</p>",
            ),
            footer=(
                f"Artifact <code>{escape(report.artifact)}</code>, {escape(calibration.variant)}, digest "
                f"<code>{escape(report.digest)}</code>",
            ),
        )
    )


def _plot_reliability(report: CalibrationReport) -> str:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8)
        colors = {"uncalibrated": RED, "isotonic": BLUE, "logistic": GREEN}
        for one in (report.uncalibrated, *report.fits):
            predicted, observed = [part.predicted for part in one.bins], [part.observed for part in one.bins]
            axes.plot(predicted, observed, color=colors[one.name], marker="o", markersize=4, label=one.name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("share that belongs together")
        axes.legend(frameon=False, fontsize=8.5)

    return to_svg("reliability", draw)


def _plot_function(report: CalibrationReport) -> str:
    calibration = report.calibration
    ends = (-1.0, 1.0) if calibration.measure == "cosine" else (-10.0, 10.0)

    def draw(axes: Axes) -> None:
        values = np.linspace(*ends, 400)
        axes.plot(values, calibration.apply(values), color=BLUE)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(calibration.measure)
        axes.set_ylabel("probability")

    return to_svg("function", draw)
