"""The report's plots, as SVG elements to be put into a page: no font, script or address from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fletcher.runtime.errors import MissingPackageError

from ..verify.report import VariantResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUE", "FLOOR", "INK", "RED", "SOFT", "plot_cosines", "plot_pairs", "to_svg"]

#: Cosines are computed in float64 from float32 vectors; below this, 1 - cosine is rounding and has no logarithm to show.
FLOOR = 1e-16

INK, SOFT, BLUE, RED = "#1b1f24", "#5b6570", "#2f6db5", "#b3261e"


def plot_cosines(variant: VariantResult) -> str:
    """Histogram of 1 - cosine on a logarithmic axis, with the tolerance. Returns an `<svg>` element."""
    distances = np.clip(1.0 - np.array([text.cosine for text in variant.texts]), FLOOR, 2.0)
    limit = max(1.0 - variant.tolerance.min_cosine, FLOOR)
    low = np.floor(np.log10(distances.min()))
    high = np.ceil(np.log10(max(distances.max(), limit))) + 0.25

    def draw(axes: Axes) -> None:
        bins = np.logspace(low, high, 41).tolist()
        axes.hist(distances, bins=bins, color=BLUE, alpha=0.85, edgecolor="white", linewidth=0.4)
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlabel("1 − cosine")
        axes.set_ylabel("texts")

    return to_svg(f"{variant.name} cosines", draw)


def plot_pairs(variant: VariantResult) -> str:
    """Pairwise similarities, the reference's on x and the variant's on y. Returns an `<svg>` element."""
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


def to_svg(name: str, draw: Callable[[Axes], None], *, size: tuple[float, float] = (5.0, 3.5)) -> str:
    """Draws one plot.

    Args:
        name: differs between the plots of a page.
        draw: fills the axes.
        size: width and height, in inches; the page scales it.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("matplotlib", "verify", "an HTML report") from None
    settings: dict[Any, Any] = {  # matplotlib types the keys as literals
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": name,  # ids differ between the plots of a page, and not between runs
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
    }
    stream = io.StringIO()
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color="#eceff2", linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes)
        figure.savefig(stream, format="svg", transparent=True)
    return _inline(stream.getvalue())


def _inline(svg: str) -> str:
    """The `<svg>` element alone: inside HTML it needs neither a document type nor namespaces, which look like addresses."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", element)
    return element.replace("xlink:href=", "href=")
