"""`write_sweep`, `render_sweep`: write the report of a sweep as a page, a JSON file, or a table. They compute no figure."""

from __future__ import annotations

from pathlib import Path

from fletcher.runtime.commandline.report_files import write_report
from fletcher.runtime.commandline.reporter import Table

from ..measure.spread import Spread
from ..sweep.results import Candidate, SweepReport
from .sweep_page import sweep_to_html

__all__ = ["render_sweep", "write_sweep"]


def write_sweep(report: SweepReport, file: Path) -> None:
    """Write the report as `.html` or `.json`. A missing folder is created."""
    write_report(report, file, lambda: sweep_to_html(report))


def render_sweep(report: SweepReport) -> Table:
    """Return the report as a table with one row per recipe. Behind each ratio of speeds is its range."""
    speed = report.parent.speed
    tokens = (0, 0, 0) if speed is None else (speed.short_tokens, speed.long_tokens, speed.latency_tokens)
    short, long, one = (f"{count} tokens" for count in tokens)
    heading = ("recipe", "cosine", "worst", "neighbors", "both", short, long, f"latency of {one}", "size", "rounds", "")
    title = "throughput of texts of two lengths, and latency, relative to fp32, with ranges; above 1 is faster"
    return Table(heading, [_row(report, candidate) for candidate in (report.parent, *report.candidates)], title)


def _row(report: SweepReport, candidate: Candidate) -> tuple[str, ...]:
    quality, speed = candidate.quality, candidate.speed
    if quality is None or speed is None:
        return (candidate.name, *[""] * 9, "failed")
    remark = "dropped" if candidate.dropped else ""
    if candidate.name == report.chosen:
        remark = "recommended"
    elif candidate.name in report.equals:
        remark = "equally fast"
    elif not remark and candidate.name in report.pareto_front:
        remark = "front"
    return (
        candidate.name,
        f"{quality.cosine_mean:.5f}",
        f"{quality.cosine_min:.5f}",
        f"{quality.overlap:.1%}",
        *(
            _format_spread(ratio)
            for ratio in (speed.throughput_ratio, speed.short_ratio, speed.long_ratio, speed.latency_ratio)
        ),
        f"{candidate.size:.2f}",
        str(speed.num_rounds),
        remark,
    )


def _format_spread(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
