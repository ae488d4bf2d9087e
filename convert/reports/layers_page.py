"""Comparison of layers as one HTML page that needs no network, with a plot of the error from layer to layer."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fletcher.runtime.commandline.pages import STYLE
from fletcher.runtime.commandline.plots import to_svg

from ..layers.results import LayersReport, PointResult
from .layers_table import shape_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["layers_to_html", "plot_growth"]

#: Errors below this are drawn here: float32 has no smaller ones, and a logarithm of 0 cannot be drawn.
FLOOR = 1e-9

_MORE_STYLE = """
body { max-width: 78rem; } td.bad, tr.bad td { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; }
"""
_SECTIONS = (
    ("values", "The graph's values, in the order of computation"),
    ("session", "The session that is served"),
    ("tokens", "Vocabulary and token ids"),
    ("weights", "Weights, bit for bit"),
)


def layers_to_html(report: LayersReport) -> str:
    """Return the page.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    sections = "".join(_section(report, name, title) for name, title in _SECTIONS)
    batches = ", ".join("+".join(map(str, lengths)) for lengths in report.batches)
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(report.model)}, layer by layer</title>
<style>{STYLE}{_MORE_STYLE}</style></head><body>
<header><h1>{escape(report.model)}, layer by layer<span class="verdict {report.verdict}">{report.verdict}</span></h1>
<p>{escape(report.summary)}</p>
<p class="soft"><code>{escape(report.artifact)}</code>, {escape(report.variant)}, against {escape(report.reference)}</p>
</header>
<figure>{plot_growth(report)}<figcaption>Relative error of each point, from the embeddings to the vectors. The dashed line
is what rounding may amount to there; points above it are red. Points without any error stand on the bottom.</figcaption>
</figure>
{sections}
<footer>Batches, in tokens a text: {batches}. {escape(report.time)}. {escape(tools)}. Artifact {report.digest}</footer>
</body></html>
"""


def plot_growth(report: LayersReport) -> str:
    """Plot the relative error over the points of the graph, layer by layer from `in` to `out`, as an `<svg>` element."""
    points = [point for point in report.points if point.section == "values" and point.verdict != "missing"]
    starts: dict[str, int] = {}
    for index, point in enumerate(points):
        starts.setdefault(_group(point), index)
    errors = [min(max(point.relative, FLOOR), 10.0) for point in points]
    wrong = [index for index, point in enumerate(points) if point.verdict == "failed"]

    def draw(axes: Axes) -> None:
        axes.plot(range(len(points)), errors, color="#2f6db5", linewidth=0.9, marker="o", markersize=2.5)
        axes.step(
            range(len(points)),
            [point.tolerance for point in points],
            where="mid",
            color="#b3261e",
            linestyle="--",
            linewidth=0.9,
        )
        axes.plot(wrong, [errors[index] for index in wrong], color="#b3261e", linestyle="", marker="o", markersize=4)
        for start in starts.values():
            axes.axvline(start - 0.5, color="#5b6570", linewidth=0.4)
        axes.set_yscale("log")
        axes.set_xticks(list(starts.values()), list(starts), ha="left")
        axes.grid(visible=False, axis="x")
        axes.set_xlim(-0.5, len(points) - 0.5)
        axes.set_ylabel("relative error")

    return to_svg(f"{report.variant} growth", draw, size=(11.0, 3.6))


def _group(point: PointResult) -> str:
    if point.layer is not None:
        return f"{point.layer}"
    return "in" if point.key.startswith("embeddings/") else "out"


def _section(report: LayersReport, name: str, title: str) -> str:
    points = [point for point in report.points if point.section == name]
    if not points:
        return ""
    rows = "".join(map(_row, points))
    heads = "".join(f'<th class="number">{heading}</th>' for heading in ("max abs", "relative", "allowed", "cosine"))
    return (
        f"<section><h2>{escape(title)}</h2><table><thead><tr><th>point</th><th>node</th><th>shape</th>{heads}"
        f"<th>verdict</th><th>note</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _row(point: PointResult) -> str:
    numbers = (f"{point.max_abs:.1e}", f"{point.relative:.1e}", f"{point.tolerance:.1e}", f"{point.cosine:.9f}")
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return (
        f"<tr{'' if point.verdict == 'passed' else ' class=bad'}><td>{escape(point.point)}</td>"
        f"<td><code>{escape(point.node)}</code></td><td>{escape(shape_of(point))}</td>{cells}"
        f"<td>{point.verdict}</td><td>{escape(point.note)}</td></tr>"
    )
