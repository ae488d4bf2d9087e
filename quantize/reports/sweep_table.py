"""`write_sweep`, `render_sweep`: write the report of a sweep as a page, a JSON file, or a table. They compute no figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fletcher.runtime.commandline.plots import to_svg
from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError

from ..sweep.results import Candidate, SweepReport
from .sweep_page import sweep_to_html

__all__ = ["check_reports", "render_sweep", "write_sweep"]


def check_reports(files: Sequence[Path]) -> None:
    """Check that reports can be written as these files.

    Raises:
        InputError: the suffix of a file is neither .html nor .json.
        MissingPackageError: a file is a page, and matplotlib is not installed.
    """
    for file in files:
        if file.suffix not in (".html", ".json"):
            raise InputError(f"a report cannot be written as {file.name}: use the suffix .html or .json")
    if any(file.suffix == ".html" for file in files):
        to_svg("check", lambda axes: None)


def write_sweep(report: SweepReport, file: Path) -> None:
    """Write the report as `.html` or `.json`. A missing folder is created."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".html":
        file.write_text(sweep_to_html(report), encoding="utf-8")
    else:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def render_sweep(report: SweepReport) -> Table:
    """Return the report as a table with one row per recipe."""
    heading = ("recipe", "cosine", "worst", "neighbors", "short", "long", "latency", "size", "")
    return Table(heading, [_row(report, candidate) for candidate in (report.parent, *report.candidates)])


def _row(report: SweepReport, candidate: Candidate) -> tuple[str, ...]:
    quality, speed = candidate.quality, candidate.speed
    if quality is None or speed is None:
        return (candidate.name, "", "", "", "", "", "", "", "failed")
    remark = "recommended" if candidate.name == report.chosen else "dropped" if candidate.dropped else ""
    if not remark and candidate.name in report.pareto_front:
        remark = "front"
    return (
        candidate.name,
        f"{quality.cosine_mean:.5f}",
        f"{quality.cosine_min:.5f}",
        f"{quality.overlap:.1%}",
        f"{speed.short_ratio:.2f}",
        f"{speed.long_ratio:.2f}",
        f"{speed.latency_ratio:.2f}",
        f"{candidate.size:.2f}",
        remark,
    )
