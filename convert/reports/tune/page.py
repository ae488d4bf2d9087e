"""Report of a training as a JSON file or an HTML page with plots."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fletcher.runtime.commandline.pages import STYLE, html_table
from fletcher.runtime.commandline.plots import BLUE, RED, SOFT, to_svg
from fletcher.runtime.commandline.report_files import check_reports, write_report

from ...tune.outcome.results import TuneReport
from .table import COLUMNS, explain_figures, gain_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_tune_report"]

MORE_STYLE = (
    ".take { font-size: 1.05rem; margin: 1rem 0; } .better { color: var(--good); } .worse { color: var(--bad); }"
)


def write_tune_report(report: TuneReport, path: Path) -> None:
    """Write the report by the file's suffix, `.json` or `.html`. A missing folder is created.

    Raises:
        InputError: the suffix is another one.
        MissingPackageError: matplotlib, which a page needs, is not installed.
    """
    check_reports([path])
    write_report(report, path, lambda: _to_html(report))


def _to_html(report: TuneReport) -> str:
    title = f"{escape(report.model)}: {report.method}"
    data, training = report.data, report.training
    aware = any(one.exactness.settled is not None for one in report.artifacts)
    stopped = f", stopped early of {training.planned:,}" if training.stopped_early else ""
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f"<title>{title}</title>",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}{MORE_STYLE}</style></head><body>",
            f'<header><h1>{title}</h1><p class="soft">{escape(report.source)}; {escape(report.time)}</p></header>',
            f'<p class="take">{escape(report.sentence)}</p>',
            "<h2>Before and after, on test data</h2>",
            html_table(COLUMNS, (_row(cells) for cells in gain_rows(report))),
            '<p class="soft">In brackets are intervals of 95 % (bootstrap over the items; that of the difference is of '
            "paired items). A difference whose interval includes 0 may be noise.</p>",
            *(f'<p class="soft">{escape(text)}</p>' for text in explain_figures(report)),
            f'<div class="plots"><figure>{_plot_gains(report)}<figcaption>Difference and its interval. Right of the line, '
            "the tuned model is better.</figcaption></figure>",
            f"<figure>{_plot_log(report)}<figcaption>Loss of each step, and {escape(training.metric)} on the validation data."
            f"{_fewer(training.metric)}</figcaption></figure></div>",
            "<h2>Training</h2>",
            f"<p>{training.steps:,} steps{stopped}; the best is step {training.best_step:,} with {escape(training.metric)} "
            f"{training.best_metric:.4f} on the validation data. {_rate(report)}The last run took "
            f"{training.seconds / 60:,.1f} minutes.</p>",
            f"<p>{data.train:,} {escape(data.kind)} of {escape(data.source)} to train, {data.validation:,} to validate, "
            f"{data.test:,} to test; {data.copies:,} copies were left out, and {data.moved:,} examples moved to the training "
            f"because of near-duplicates there. {data.cut:.1%} of the training texts were cut at {data.max_tokens} "
            "tokens.</p>",
            "<h2>Artifacts</h2>",
            f"<p>Serve one of them: <code>fletcher-serve run {escape(report.artifacts[-1].path)}</code>. "
            f"sentence-transformers loads <code>{escape(report.checkpoint)}</code>. The difference is that of vectors of "
            f"{max(one.exactness.texts for one in report.artifacts)} test texts from those of the model in torch.</p>",
            html_table(
                ("graph", "folder", "comparison with torch", "#bytes", "#median difference", "#largest")
                + (("#largest with the same codes",) if aware else ()),
                (
                    _row(
                        (
                            one.graph,
                            str(one.path),
                            one.status,
                            f"{one.num_bytes:,}",
                            f"{one.exactness.median:.1e}" if one.exactness.texts else "",
                            f"{one.exactness.largest:.1e}" if one.exactness.texts else "",
                            *(
                                ["" if one.exactness.settled is None else f"{one.exactness.settled:.1e}"]
                                if aware
                                else ()
                            ),
                        ),
                        numbers=4 if aware else 3,
                    )
                    for one in report.artifacts
                ),
            ),
            "<h2>Options</h2>",
            html_table(("option", "value"), (_row(_option(*item)) for item in report.options.items())),
            f"<footer><p>{escape(', '.join(f'{name} {version}' for name, version in report.tools.items()))}</p></footer>",
            "</body></html>\n",
        )
    )


def _rate(report: TuneReport) -> str:
    rate = report.training.learning_rate
    return "" if rate is None else f"The largest learning rate was {rate:g}. "


def _fewer(metric: str) -> str:
    return (
        " Validation searches fewer texts than the test, so its figures are higher."
        if metric.startswith("nDCG")
        else ""
    )


def _option(name: str, value: object) -> tuple[str, str]:
    return f"--{name.replace('_', '-')}", "default" if value is None else str(value)


def _row(cells: tuple[str, ...], *, numbers: int = 0) -> str:
    """Return a row of a table, whose last `numbers` cells are numbers."""
    marks = {"better": ' class="better"', "worse": ' class="worse"'}
    first = len(cells) - numbers
    return "".join(
        (
            "<tr>",
            *(f"<td{marks.get(cell, '')}>{escape(cell)}</td>" for cell in cells[:first]),
            *(f'<td class="number">{escape(cell)}</td>' for cell in cells[first:]),
            "</tr>",
        )
    )


def _plot_gains(report: TuneReport) -> str:
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for place, one in enumerate(reversed(report.gains)):
            ends = [[one.gain.value - one.gain.low], [one.gain.high - one.gain.value]]
            axes.errorbar([one.gain.value], [place], xerr=ends, fmt="o", color=BLUE, capsize=3)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set_yticks(range(len(report.gains)), [f"{one.name}\n{one.graph}" for one in reversed(report.gains)])
        axes.set_ylim(-0.7, len(report.gains) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("difference")

    return to_svg("gains", draw)


def _plot_log(report: TuneReport) -> str:
    def draw(axes: Axes) -> None:
        found = [(one.step, one.loss) for one in report.training.log if one.loss is not None]
        if found:
            axes.plot(*zip(*found, strict=True), color=BLUE, linewidth=0.8)
        axes.set_xlabel("step")
        axes.set_ylabel("loss", color=BLUE)
        measured = [(one.step, one.metric) for one in report.training.log if one.metric is not None]
        if measured:
            other = axes.twinx()
            other.plot(*zip(*measured, strict=True), color=RED, marker="o", markersize=3)
            other.set_ylabel(report.training.metric, color=RED)

    return to_svg("log", draw)
