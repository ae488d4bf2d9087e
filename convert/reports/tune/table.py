"""Report of a training as a table for the terminal."""

from __future__ import annotations

from fletcher.runtime.commandline.reporter import Table

from ...tune.outcome.bootstrap import Interval
from ...tune.outcome.results import TuneReport

__all__ = ["COLUMNS", "gain_rows", "render_tune"]

COLUMNS = ("figure", "graph", "items", "before", "after", "difference", "verdict")


def render_tune(report: TuneReport) -> Table:
    """Return the figures before and after, with intervals of 95 %."""
    return Table(COLUMNS, gain_rows(report), title=f"{report.model}, {report.method}: test data, intervals of 95 %")


def gain_rows(report: TuneReport) -> list[tuple[str, ...]]:
    """Return the cells of each figure."""
    return [
        (
            gain.name,
            gain.graph,
            f"{gain.items:,}",
            _show(gain.before),
            _show(gain.after) + ("" if gain.reference is None else f", teacher {gain.reference:.4f}"),
            _show(gain.gain, sign="+"),
            gain.verdict,
        )
        for gain in report.gains
    ]


def _show(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.4f} ({interval.low:{sign}.4f} to {interval.high:{sign}.4f})"
