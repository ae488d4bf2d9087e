"""`to_svg`: function that draws plots as SVG elements for HTML pages, without external fonts, scripts or addresses."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "AMBER",
    "BLUE",
    "FLOOR",
    "GREEN",
    "INK",
    "ORANGE",
    "PALE",
    "PAPER",
    "RED",
    "SOFT",
    "to_svg",
]

#: Smallest 1 - cosine of a plot: cosines are computed in float64 from float32 vectors, and a smaller value is rounding.
FLOOR = 1e-16

INK, SOFT, BLUE, RED, GREEN = "#1b1f24", "#5b6570", "#2f6db5", "#b3261e", "#14724a"
PALE, ORANGE, AMBER, GRID, PAPER = "#8fb4e3", "#c98a1b", "#e0b45c", "#eceff2", "#ffffff"

#: Names of the colors in the style of a page, which has others in the dark.
NAMES = {
    INK: "ink",
    SOFT: "soft",
    BLUE: "blue",
    RED: "red",
    GREEN: "green",
    PALE: "pale",
    ORANGE: "orange",
    AMBER: "amber",
    GRID: "grid",
    PAPER: "paper",
}

#: Width of a plot below which its letters are too small, in rem for each inch. A narrower page scrolls the plot.
REM_PER_INCH = 3.4


def to_svg(name: str, draw: Callable[[Axes], None], *, size: tuple[float, float] = (5.0, 3.5)) -> str:
    """Draw one plot, and return its SVG element.

    Args:
        name: name of the plot, unique in its page.
        draw: function that draws into the axes.
        size: width and height in inches; the page scales the plot.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("matplotlib", "verify", "an HTML report") from None
    settings: dict[Any, Any] = {  # the type of matplotlib's keys is a literal
        "svg.fonttype": "none",  # text stays text, in the font of the page
        "svg.hashsalt": name,  # ids differ between the plots of a page, but not between runs
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
    }
    stream = io.StringIO()
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes)
        figure.savefig(stream, format="svg", transparent=True)
    return _inline(stream.getvalue(), REM_PER_INCH * size[0])


def _inline(svg: str, least: float) -> str:
    """Return only the `<svg>` element, in the colors of its page and with a least width in rem.

    HTML needs neither the document type nor the namespaces, which look like addresses.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", element)
    element = re.sub(r": (#[0-9a-f]{6})\b", _colored, element)
    element = element.replace("<svg", f'<svg role="img" style="min-width: {least:.1f}rem"', 1)
    return element.replace("xlink:href=", "href=")


def _colored(found: re.Match[str]) -> str:
    name = NAMES.get(found[1])
    return found[0] if name is None else f": var(--{name})"
