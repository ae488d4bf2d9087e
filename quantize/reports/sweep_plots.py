"""`plot_pareto_front`, `plot_histograms`, `plot_damage`: draw the plots of a sweep as SVG elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fletcher.runtime.commandline.plots import AMBER, BLUE, FLOOR, INK, ORANGE, PALE, RED, SOFT, to_svg

from ..sensitivity import Sensitivity
from ..sweep.results import Candidate, SweepReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_damage", "plot_histograms", "plot_pareto_front"]

#: Most matrices in the plot of damage.
SHOWN_MATRICES = 30

#: A smaller 1 - cosine is rounding of float32, and is drawn at the edge of the plot.
NOISE = 1e-7

#: Color of a matrix by a part of its name; the first match applies.
KINDS = (("qkv", BLUE), ("attention", PALE), ("up", ORANGE), ("gate", AMBER), ("down", RED))

#: Smallest distance between two names in a plot, as a share of its height.
LINE = 0.055

#: Width of a letter, as a share of the plot's width.
LETTER = 0.0125


def plot_pareto_front(report: SweepReport, candidates: Sequence[Candidate]) -> str:
    """Draw speed, with its range, against loss of cosine. A point's area is the size of its file; the Pareto front is filled.

    Args:
        report: its float32 result, Pareto front and recommendation are drawn.
        candidates: the other points.
    """
    front, bold = report.pareto_front, report.chosen or report.parent.name
    places = {
        candidate.name: (candidate.speed.throughput_ratio.median, max(1.0 - candidate.quality.cosine_mean, NOISE))
        for candidate in (report.parent, *candidates)
        if candidate.quality is not None and candidate.speed is not None
    }
    ranges = {
        candidate.name: (candidate.speed.throughput_ratio.low, candidate.speed.throughput_ratio.high)
        for candidate in (report.parent, *candidates)
        if candidate.speed is not None
    }
    sizes = {candidate.name: candidate.size for candidate in (report.parent, *candidates)}

    def draw(axes: Axes) -> None:
        for name, (speed, loss) in places.items():
            color = RED if name == bold else BLUE if name in front else SOFT
            axes.hlines(loss, *ranges[name], color=color, linewidth=1.2, zorder=2)
            axes.scatter(
                [speed],
                [loss],
                s=40 + 260 * sizes[name],
                color=color if name in front else "none",
                edgecolors=color,
                alpha=0.85,
                zorder=3,
            )
        axes.set_yscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.3, y=0.12)
        axes.set_xlabel("throughput relative to float32 (further right is faster)")
        axes.set_ylabel("1 − mean cosine (higher is nearer)")
        _name_points(axes, places, ranges, bold)

    return to_svg("pareto front", draw, size=(7.2, 4.6))


def _name_points(
    axes: Axes, places: Mapping[str, tuple[float, float]], ranges: Mapping[str, tuple[float, float]], bold: str
) -> None:
    """Write the name of each point beside it, moved up or down if it would cover another name, a point or its range."""
    low, high = axes.get_xlim()
    bottom, top = (float(np.log10(end)) for end in axes.get_ylim())
    heights = {name: (float(np.log10(loss)) - bottom) / (top - bottom) for name, (_, loss) in places.items()}
    # Areas that a name must not cover, as shares of the axes: start, end and height. The points and ranges come first.
    taken = [
        (
            min((x - low) / (high - low) - 0.015, (ranges[name][0] - low) / (high - low)),
            max((x - low) / (high - low) + 0.015, (ranges[name][1] - low) / (high - low)),
            heights[name],
        )
        for name, (x, _) in places.items()
    ]
    for name in sorted(places, key=lambda name: -heights[name]):
        across = (places[name][0] - low) / (high - low)
        start, end = across + 0.025, across + 0.025 + LETTER * len(name)
        # Choose the nearest free height, above or below.
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


def plot_histograms(candidates: Sequence[Candidate], min_cosine: float) -> str:
    """Draw a histogram of the texts' 1 - cosine per recipe, the most accurate first; texts beyond the bound are red."""
    qualities = {candidate.name: candidate.quality for candidate in candidates if candidate.quality is not None}
    names = sorted(qualities, key=lambda name: -qualities[name].cosine_mean)
    losses = [np.clip(1.0 - np.array(qualities[name].cosines), NOISE, 2.0) for name in names]
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
        axes.set_ylim(-len(names) + 0.9, 1)
        axes.set_yticks([0.3 - row for row in range(len(names))], names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("1 − cosine with float32 (further left is nearer)")

    return to_svg("sweep cosines", draw, size=(7.2, 0.9 + 0.42 * max(len(names), 1)))


def plot_damage(sensitivity: Sensitivity) -> str:
    """Draw 1 - mean cosine with only one matrix quantized as bars, colored by the kind of the matrix."""
    rows = sensitivity.damages[:SHOWN_MATRICES][::-1]
    colors = [next((color for part, color in KINDS if part in damage.matrix), SOFT) for damage in rows]

    def draw(axes: Axes) -> None:
        axes.barh([damage.matrix for damage in rows], [max(damage.loss, 0.0) for damage in rows], color=colors)
        axes.set_xlabel(f"1 − mean cosine, only this matrix quantized ({sensitivity.recipe})")
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axes.tick_params(axis="y", labelsize=7.5)

    return to_svg("damage by matrix", draw, size=(7.2, 1.0 + 0.2 * len(rows)))
