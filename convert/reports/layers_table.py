"""Comparison of layers as a table for the terminal, one row for each point. It computes no figure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..layers.results import LayersReport, PointResult

__all__ = ["render_layers", "shape_of"]

_STYLES = {"passed": "green", "failed": "bold red", "missing": "bold red"}


def render_layers(report: LayersReport) -> RenderableType:
    """Render a row for each point, equal weights as one row, and the nodes of points that differ."""
    title = f"{report.variant} of {report.model} against {report.reference}"
    # Narrow on purpose: a terminal of 80 columns still shows a point on a line or two.
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("verdict", no_wrap=True)
    table.add_column("point", min_width=24)
    table.add_column("shape", overflow="fold", max_width=12)
    for heading in ("max abs", "relative", "cosine"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in _shown(report):
        table.add_row(
            Text(point.verdict, style=_STYLES[point.verdict]),
            point.point if point.verdict == "passed" else f"{point.point}\n{point.node}",
            shape_of(point),
            f"{point.max_abs:.1e}",
            f"{point.relative:.1e}",
            f"{point.cosine:.6f}",
        )
    batches = ", ".join("+".join(map(str, lengths)) for lengths in report.batches)
    verdict = Text.assemble("verdict: ", Text(report.verdict, style=_STYLES[report.verdict]))
    return Group(table, Text(f"batches, in tokens a text: {batches}"), Text(report.summary), verdict)


def shape_of(point: PointResult) -> str:
    """Return a shape as text."""
    return "×".join(map(str, point.shape))


def _shown(report: LayersReport) -> Iterator[PointResult]:
    """Yield every point, and all equal weights as one."""
    equal = [point for point in report.points if point.section == "weights" and point.verdict == "passed"]
    counted = False
    for point in report.points:
        if point.section != "weights" or point.verdict != "passed":
            yield point
        elif not counted:
            counted = True
            yield PointResult(
                section="weights",
                point=f"{len(equal)} weights, bit for bit",
                key="weights",
                node=report.variant,
                verdict="passed",
            )
