"""Comparison of layers as one HTML page that needs no network, with a plot of the error from layer to layer."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fletcher.runtime.commandline.pages import Page, figure, html_table, to_html
from fletcher.runtime.commandline.plots import BLUE, RED, SOFT, to_svg

from ..layers.results import LayersReport, PointResult
from .layers_table import shape_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["layers_to_html", "plot_growth"]

#: Errors below this are drawn here: float32 has no smaller ones, and a logarithm of 0 cannot be drawn.
FLOOR = 1e-9

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
    batches = ", ".join("+".join(map(str, lengths)) for lengths in report.batches)
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    return to_html(
        Page(
            title=f"{report.model}, layer by layer",
            sentences=[f"The layers {'agree' if report.verdict == 'passed' else 'do not agree'}: {report.summary}"],
            about=f"<code>{escape(report.artifact)}</code>, {escape(report.variant)}, against {escape(report.reference)}",
            verdict=report.verdict,
            parts=(
                figure(
                    plot_growth(report),
                    "Relative error of each point, from the embeddings to the vectors. The dashed line is what rounding may "
                    "amount to there; points above it are red. Points without any error stand on the bottom.",
                ),
                *(_section(report, name, title) for name, title in _SECTIONS),
            ),
            footer=(
                f"Batches, in tokens a text: {batches}. {escape(report.time)}. {escape(tools)}. Artifact {report.digest}",
            ),
        )
    )


def plot_growth(report: LayersReport) -> str:
    """Plot the relative error over the points of the graph, layer by layer from `in` to `out`, as an `<svg>` element."""
    points = [point for point in report.points if point.section == "values" and point.verdict != "missing"]
    starts: dict[str, int] = {}
    for index, point in enumerate(points):
        starts.setdefault(_group(point), index)
    errors = [min(max(point.relative, FLOOR), 10.0) for point in points]
    wrong = [index for index, point in enumerate(points) if point.verdict == "failed"]

    def draw(axes: Axes) -> None:
        axes.plot(range(len(points)), errors, color=BLUE, linewidth=0.9, marker="o", markersize=2.5)
        axes.step(
            range(len(points)),
            [point.tolerance for point in points],
            where="mid",
            color=RED,
            linestyle="--",
            linewidth=0.9,
        )
        axes.plot(wrong, [errors[index] for index in wrong], color=RED, linestyle="", marker="o", markersize=4)
        for start in starts.values():
            axes.axvline(start - 0.5, color=SOFT, linewidth=0.4)
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
    headings = ("point", "node", "shape", "#max abs", "#relative", "#allowed", "#cosine", "verdict", "note")
    return f"<section><h2>{escape(title)}</h2>{html_table(headings, map(_row, points))}</section>"


def _row(point: PointResult) -> str:
    numbers = (f"{point.max_abs:.1e}", f"{point.relative:.1e}", f"{point.tolerance:.1e}", f"{point.cosine:.9f}")
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return (
        f"<tr{'' if point.verdict == 'passed' else ' class=bad'}><td>{escape(point.point)}</td>"
        f"<td><code>{escape(point.node)}</code></td><td>{escape(shape_of(point))}</td>{cells}"
        f"<td>{point.verdict}</td><td>{escape(point.note)}</td></tr>"
    )
