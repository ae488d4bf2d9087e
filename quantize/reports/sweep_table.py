"""A sweep's report for people and machines: a table, a JSON file, a page. It computes no figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fletcher.quantize.sweep.results import Point, SweepReport
from fletcher.runtime.commandline.plots import to_svg
from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError

from .sweep_page import sweep_to_html

__all__ = ["check_reports", "render_sweep", "write_sweep"]


def check_reports(files: Sequence[Path]) -> None:
    """
    Raises:
        InputError: a file's ending names no kind of report.
        MissingPackageError: a page is wanted, and matplotlib is not installed.
    """
    for file in files:
        if file.suffix not in (".html", ".json"):
            raise InputError(f"a report cannot be written as {file.name}: end it in .html or .json")
    if any(file.suffix == ".html" for file in files):
        to_svg("check", lambda axes: None)


def write_sweep(report: SweepReport, file: Path) -> None:
    """Writes it as `.html` or `.json`; the folder is made if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".html":
        file.write_text(sweep_to_html(report), encoding="utf-8")
    else:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def render_sweep(report: SweepReport) -> Table:
    """What the terminal shows: a row a recipe."""
    heading = ("recipe", "cosine", "worst", "neighbors", "short", "long", "latency", "size", "")
    return Table(heading, [_row(report, point) for point in (report.parent, *report.points)])


def _row(report: SweepReport, point: Point) -> tuple[str, ...]:
    quality, speed = point.quality, point.speed
    if quality is None or speed is None:
        return (point.name, "", "", "", "", "", "", "", "failed")
    told = "recommended" if point.name == report.chosen else "dropped" if point.dropped else ""
    if not told and point.name in report.front:
        told = "front"
    return (
        point.name,
        f"{quality.cosine_mean:.5f}",
        f"{quality.cosine_min:.5f}",
        f"{quality.overlap:.1%}",
        f"{speed.short_ratio:.2f}",
        f"{speed.long_ratio:.2f}",
        f"{speed.latency_ratio:.2f}",
        f"{point.size:.2f}",
        told,
    )
