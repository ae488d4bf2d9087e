"""Plots of a quality report: cosines, and neighbors that shorter vectors keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fletcher.runtime.commandline.plots import BLUE, GREEN, RED, SOFT, to_svg

from ...quality.results import QualityReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_compressed", "plot_cosines"]

#: Color, marker and label of each way to shorten vectors.
METHODS = (("cut", SOFT, "o", "cut"), ("pca", BLUE, "s", "PCA"), ("pca-whitened", GREEN, "^", "PCA, whitened"))


def plot_cosines(report: QualityReport, name: str) -> str:
    """Plot the distributions of cosines: random pairs, nearest neighbors, tenth neighbors."""
    geometry = report.geometry
    edges = np.linspace(-1, 1, len(geometry.random_pairs.histogram) + 1)
    centers = (edges[:-1] + edges[1:]) / 2

    def draw(axes: Axes) -> None:
        for found, color, label in (
            (geometry.random_pairs, SOFT, "random pairs"),
            (geometry.tenth_neighbors, BLUE, "tenth neighbors"),
            (geometry.neighbors, RED, "nearest neighbors"),
        ):
            shares = np.array(found.histogram) / found.count
            axes.fill_between(centers, shares, step="mid", color=color, alpha=0.25, linewidth=0)
            axes.step(centers, shares, where="mid", color=color, linewidth=1.3, label=label)
        low = min(geometry.random_pairs.p1, geometry.tenth_neighbors.p1)
        axes.set_xlim(max(-1.0, low - 0.1), 1.0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("cosine")
        axes.set_ylabel("share")
        axes.legend(frameon=False, fontsize=8.5)

    return to_svg(f"{name} cosines", draw)


def plot_compressed(report: QualityReport, name: str) -> str:
    """Plot the share of neighbors that stay against the bytes of a vector in int8, and in float32 as small points."""
    whole = next(one for one in report.compressed if one.method == "full" and one.type == "int8")

    def draw(axes: Axes) -> None:
        for method, color, marker, label in METHODS:
            points = [one for one in report.compressed if one.method == method and one.type == "int8"]
            if points:
                shown = sorted([whole, *points], key=lambda one: one.bytes)
                axes.plot(
                    [one.bytes for one in shown],
                    [one.overlap for one in shown],
                    color=color,
                    marker=marker,
                    markersize=4,
                    linewidth=1.2,
                    label=f"{label}, int8",
                )
        binary = [one for one in report.compressed if one.method == "full" and one.type == "binary"]
        axes.scatter(
            [one.bytes for one in binary], [one.overlap for one in binary], color=RED, s=30, label="binary, rescored"
        )
        axes.axhline(report.min_overlap, color=RED, linestyle="--", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("bytes of a vector in the index")
        axes.set_ylabel("ten nearest neighbors that stay")
        axes.legend(frameon=False, fontsize=8.5)

    return to_svg(f"{name} compressed", draw)
