"""Plots of a verification: histogram of cosines, and pairwise similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fletcher.runtime.commandline.plots import BLUE, FLOOR, PAPER, RED, SOFT, to_svg

from ..verify.report import VariantResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_cosines", "plot_pairs"]


def plot_cosines(variant: VariantResult) -> str:
    """Plot a histogram of 1 - cosine on a logarithmic axis, with the tolerance, as an `<svg>` element."""
    distances = np.clip(1.0 - np.array([text.cosine for text in variant.texts]), FLOOR, 2.0)
    limit = max(1.0 - variant.tolerance.min_cosine, FLOOR)
    low = np.floor(np.log10(distances.min()))
    high = np.ceil(np.log10(max(distances.max(), limit))) + 0.25

    def draw(axes: Axes) -> None:
        bins = np.logspace(low, high, 41).tolist()
        axes.hist(distances, bins=bins, color=BLUE, alpha=0.85, edgecolor=PAPER, linewidth=0.4)
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlabel("1 − cosine")
        axes.set_ylabel("texts")

    return to_svg(f"{variant.name} cosines", draw)


def plot_pairs(variant: VariantResult) -> str:
    """Plot pairwise similarities, the reference's on x and the variant's on y, as an `<svg>` element."""
    pairs = np.array(variant.pairs, np.float64).reshape(-1, 2)
    ends = [float(pairs.min()) - 0.03, float(pairs.max()) + 0.03] if len(pairs) else [0.0, 1.0]

    def draw(axes: Axes) -> None:
        axes.plot(ends, ends, color=SOFT, linewidth=0.8)
        axes.scatter(pairs[:, 1], pairs[:, 0], s=8, color=BLUE, alpha=0.4, linewidths=0)
        axes.set_xlim(ends[0], ends[1])
        axes.set_ylim(ends[0], ends[1])
        axes.set_xlabel("similarity by HuggingFace, float32")
        axes.set_ylabel(f"similarity by {variant.name}")

    return to_svg(f"{variant.name} pairs", draw)
