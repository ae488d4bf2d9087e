"""Report of a training as a table for the terminal."""

from __future__ import annotations

from fletcher.runtime.commandline.reporter import Table

from ...tune.outcome.bootstrap import Interval
from ...tune.outcome.results import TuneReport

__all__ = ["COLUMNS", "explain_figures", "gain_rows", "render_tune"]

COLUMNS = ("figure", "graph", "items", "before", "after", "difference", "verdict")


def render_tune(report: TuneReport) -> Table:
    """Return the figures before and after, with intervals of 95 %."""
    return Table(COLUMNS, gain_rows(report), title=f"{report.model}, {report.method}: test data, intervals of 95 %")


#: Meanings of the figures, by the beginning of the name.
_MEANINGS = {
    "nDCG@10": "quality of a search's first ten results, from 0 to 1; the texts that belong to the query should be on top",
    "rank correlation": "agreement of the order of similarities with the order of the scores (Spearman), from -1 to 1",
    "teacher's ten neighbors": "share of the ten nearest texts by the teacher that are nearest by the other model, too",
    "cosine with the teacher": "mean cosine of both models' vectors of a text; 1 means that they are equal",
    "order of the reranker": "share of the pairs of texts of a query that have the reranker's order; chance gives 0.5",
}


def explain_figures(report: TuneReport) -> list[str]:
    """Return a sentence for each kind of figure, for people who do not know it."""
    names = [gain.name for gain in report.gains]
    return [
        f"{start}: {meaning}." for start, meaning in _MEANINGS.items() if any(name.startswith(start) for name in names)
    ]


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
