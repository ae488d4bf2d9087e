"""`bars`: horizontal bars as an SVG element, which needs no package for plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "bars"]

#: Width of the plot, height of a bar with its label, and width of the longest bar, in pixels of the element.
WIDTH, ROW, LONGEST = 480, 40, 370


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar.

    Attributes:
        label: name above the bar.
        value: length, at least 0.
        text: value as text, right of the bar.
        chosen: True if the bar stands out.
    """

    label: str
    value: float
    text: str
    chosen: bool = False


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Return bars as an SVG element, the first one at the top.

    Args:
        title: description for those who do not see the plot.
        rows: the bars.
    """
    longest = max((row.value for row in rows), default=0.0) or 1.0
    drawn = []
    for place, row in enumerate(rows):
        top, length = ROW * place, max(LONGEST * row.value / longest, 1.0)
        weight = ' font-weight="600"' if row.chosen else ""
        drawn.append(
            f'<text x="0" y="{top + 13}" font-size="13"{weight}>{escape(row.label)}</text>'
            f'<rect x="0" y="{top + 18}" width="{length:.1f}" height="13" rx="2" '
            f'style="fill: var(--{"blue" if row.chosen else "pale"})"/>'
            f'<text x="{length + 6:.1f}" y="{top + 29}" font-size="13"{weight}>{escape(row.text)}</text>'
        )
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {max(ROW * len(rows), 1)}" style="max-width: {WIDTH}px">'
        f"<title>{escape(title)}</title>{''.join(drawn)}</svg>"
    )
