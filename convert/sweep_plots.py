"""A sweep's plots, as SVG elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fletcher.quantize.point import Point
from fletcher.quantize.sensitivity import Sensitivity

from .plots import BLUE, FLOOR, INK, RED, SOFT, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_damage", "plot_front", "plot_histograms"]

#: Matrices that the plot of damage shows, worst first.
SHOWN_MATRICES = 30

#: 1 - cosine below this is float32's own noise: drawn at the plot's edge.
NOISE = 1e-7


def plot_front(parent: Point, points: Sequence[Point], front: Sequence[str], chosen: str | None) -> str:
    """Speed against loss of cosine; a point's area is its file's size, filled ones are the Pareto front's."""
    shown = [point for point in (parent, *points) if point.quality is not None and point.speed is not None]

    def draw(axes: Axes) -> None:
        for point in shown:
            assert point.quality is not None and point.speed is not None
            loss = max(1.0 - point.quality.cosine_mean, NOISE)
            colour = RED if point.name == (chosen or parent.name) else BLUE if point.name in front else SOFT
            axes.scatter(
                [point.speed.ratio],
                [loss],
                s=40 + 260 * point.size,
                color=colour if point.name in front else "none",
                edgecolors=colour,
                alpha=0.85,
            )
            axes.annotate(
                point.name, (point.speed.ratio, loss), xytext=(9, 5), textcoords="offset points", color=INK, fontsize=8
            )
        axes.set_yscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.22, y=0.12)
        axes.set_xlabel("throughput, times float32's (further right is faster)")
        axes.set_ylabel("1 − mean cosine (higher is nearer)")

    return to_svg("pareto front", draw, size=(7.2, 4.4))


def plot_histograms(points: Sequence[Point], min_cosine: float) -> str:
    """Each text's 1 - cosine, a line a recipe, with the bound."""
    shown = [point for point in points if point.quality is not None]
    losses = [np.clip(1.0 - np.array(point.quality.cosines if point.quality else ()), NOISE, 2.0) for point in shown]
    limit = max(1.0 - min_cosine, FLOOR)
    high = max([limit, *(float(loss.max()) for loss in losses)])
    bins = np.logspace(np.log10(NOISE), np.ceil(np.log10(high)), 57)

    def draw(axes: Axes) -> None:
        for place, (point, loss) in enumerate(zip(shown, losses, strict=True)):
            counts, edges = np.histogram(loss, bins)
            axes.stairs(counts, edges, label=point.name, color=f"C{place}", linewidth=1.4)
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlabel("1 − cosine with float32 (further left is nearer)")
        axes.set_ylabel("texts")
        if shown:
            axes.legend(frameon=False, fontsize=8)

    return to_svg("sweep cosines", draw, size=(7.2, 3.6))


def plot_damage(found: Sensitivity) -> str:
    """Bars: 1 - mean cosine with only that matrix quantised."""
    rows = found.damages[:SHOWN_MATRICES][::-1]

    def draw(axes: Axes) -> None:
        axes.barh([damage.matrix for damage in rows], [max(damage.loss, 0.0) for damage in rows], color=BLUE)
        axes.set_xlabel(f"1 − mean cosine, only this matrix quantised ({found.recipe})")
        axes.tick_params(axis="y", labelsize=7.5)

    return to_svg("damage by matrix", draw, size=(7.2, 1.0 + 0.2 * len(rows)))
