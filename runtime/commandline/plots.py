"""`to_svg`: function that draws plots as SVG elements for HTML pages, without external fonts, scripts or addresses."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUE", "FLOOR", "INK", "RED", "SOFT", "to_svg"]

#: Smallest 1 - cosine of a plot: cosines are computed in float64 from float32 vectors, and a smaller value is rounding.
FLOOR = 1e-16

INK, SOFT, BLUE, RED = "#1b1f24", "#5b6570", "#2f6db5", "#b3261e"


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
    """Return only the `<svg>` element. HTML needs neither the document type nor the namespaces, which look like addresses."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", element)
    return element.replace("xlink:href=", "href=")
