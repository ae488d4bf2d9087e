"""A sweep's plots, as SVG elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fletcher.quantize.sensitivity import Sensitivity
from fletcher.quantize.sweep.results import Point
from fletcher.runtime.commandline.plots import BLUE, FLOOR, INK, RED, SOFT, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_damage", "plot_front", "plot_histograms"]

#: Matrices that the plot of damage shows, worst first.
SHOWN_MATRICES = 30

#: 1 - cosine below this is float32's own noise: drawn at the plot's edge.
NOISE = 1e-7

#: Colors of a matrix' kinds, by a part of its name; the first that fits counts.
KINDS = (("qkv", "#2f6db5"), ("attention", "#8fb4e3"), ("up", "#c98a1b"), ("gate", "#e0b45c"), ("down", "#b3261e"))

#: Least distance between two names in a plot, as a share of its height.
LINE = 0.055

#: Width of a name's letter, as a share of the plot's width.
LETTER = 0.0125


def plot_front(parent: Point, points: Sequence[Point], front: Sequence[str], chosen: str | None) -> str:
    """Speed against loss of cosine; a point's area is its file's size, filled ones are the Pareto front's."""
    shown = [point for point in (parent, *points) if point.quality is not None and point.speed is not None]
    places = {
        point.name: (point.speed.ratio, max(1.0 - point.quality.cosine_mean, NOISE))
        for point in shown
        if point.quality is not None and point.speed is not None
    }

    def draw(axes: Axes) -> None:
        for point in shown:
            color = RED if point.name == (chosen or parent.name) else BLUE if point.name in front else SOFT
            speed, loss = places[point.name]
            axes.scatter(
                [speed],
                [loss],
                s=40 + 260 * point.size,
                color=color if point.name in front else "none",
                edgecolors=color,
                alpha=0.85,
                zorder=3,
            )
        axes.set_yscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.3, y=0.12)
        axes.set_xlabel("throughput, times float32's (further right is faster)")
        axes.set_ylabel("1 − mean cosine (higher is nearer)")
        _name_points(axes, places, (chosen or parent.name))

    return to_svg("pareto front", draw, size=(7.2, 4.6))


def _name_points(axes: Axes, places: Mapping[str, tuple[float, float]], bold: str) -> None:
    """Writes each point's name beside it, moved up or down where names would lie on one another."""
    low, high = axes.get_xlim()
    bottom, top = (float(np.log10(end)) for end in axes.get_ylim())
    heights = {name: (float(np.log10(loss)) - bottom) / (top - bottom) for name, (_, loss) in places.items()}
    # What a name must not lie on, as shares of the axes: where it begins and ends, and its height. Points are there already.
    taken = [
        ((x - low) / (high - low) - 0.015, (x - low) / (high - low) + 0.015, heights[name])
        for name, (x, _) in places.items()
    ]
    for name in sorted(places, key=lambda name: -heights[name]):
        across = (places[name][0] - low) / (high - low)
        start, end = across + 0.025, across + 0.025 + LETTER * len(name)
        # The nearest free height, above or below.
        near = sorted(
            (heights[name] + LINE / 4 * step for step in range(-60, 61)), key=lambda y: abs(y - heights[name])
        )
        free = (y for y in near if 0.03 <= y <= 0.97 and not _covered(taken, start, end, y))
        height = next(free, heights[name])
        taken.append((start, end, height))
        axes.annotate(
            name,
            places[name],
            xytext=(start, height),
            textcoords="axes fraction",
            va="center",
            color=INK,
            fontsize=8,
            fontweight="bold" if name == bold else "normal",
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        )


def _covered(taken: Sequence[tuple[float, float, float]], start: float, end: float, height: float) -> bool:
    return any(start < ends and begins < end and abs(height - their) < LINE * 0.98 for begins, ends, their in taken)


def plot_histograms(points: Sequence[Point], min_cosine: float) -> str:
    """Each text's 1 - cosine, a row a recipe, the nearest first; texts beyond the bound are red."""
    shown = [point for point in points if point.quality is not None]
    shown.sort(key=lambda point: -point.quality.cosine_mean if point.quality else 0.0)
    losses = [np.clip(1.0 - np.array(point.quality.cosines if point.quality else ()), NOISE, 2.0) for point in shown]
    limit = max(1.0 - min_cosine, FLOOR)
    high = max([limit, *(float(loss.max()) for loss in losses)])
    bins = np.logspace(np.log10(NOISE), np.ceil(np.log10(high)), 70)

    def draw(axes: Axes) -> None:
        for row, loss in enumerate(losses):
            counts, edges = np.histogram(loss, bins)
            heights = 0.85 * counts / max(counts.max(), 1)
            colors = np.where(edges[:-1] >= limit, RED, BLUE)
            axes.bar(edges[:-1], heights, np.diff(edges), bottom=-row, align="edge", color=colors, alpha=0.85)
            axes.axhline(-row, color=SOFT, linewidth=0.5)
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlim(bins[0], bins[-1])
        axes.set_ylim(-len(shown) + 0.9, 1)
        axes.set_yticks([0.3 - row for row in range(len(shown))], [point.name for point in shown])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("1 − cosine with float32 (further left is nearer)")

    return to_svg("sweep cosines", draw, size=(7.2, 0.9 + 0.42 * max(len(shown), 1)))


def plot_damage(found: Sensitivity) -> str:
    """Bars: 1 - mean cosine with only that matrix quantized, colored by what the matrix does."""
    rows = found.damages[:SHOWN_MATRICES][::-1]
    colors = [next((color for part, color in KINDS if part in damage.matrix), SOFT) for damage in rows]

    def draw(axes: Axes) -> None:
        axes.barh([damage.matrix for damage in rows], [max(damage.loss, 0.0) for damage in rows], color=colors)
        axes.set_xlabel(f"1 − mean cosine, only this matrix quantized ({found.recipe})")
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axes.tick_params(axis="y", labelsize=7.5)

    return to_svg("damage by matrix", draw, size=(7.2, 1.0 + 0.2 * len(rows)))
