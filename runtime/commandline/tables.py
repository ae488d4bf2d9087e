"""`Table`: a result as rows of text, and the text of results. A terminal that is too narrow gets fewer columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

__all__ = ["Table", "format_cell", "format_fields", "format_tables"]


@dataclass(frozen=True, slots=True)
class Table:
    """`Table`: a result as rows of text.

    Attributes:
        columns: headings.
        rows: cells; columns of numbers are aligned right.
        title: line above the table, or None.
        optional: headings of the columns that are left out where a line does not fit, in this order.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str | None = None
    optional: Sequence[str] = ()


def format_tables(tables: Sequence[Table], width: int | None) -> Iterator[str]:
    """Return the lines of tables, with an empty line between two of them.

    Args:
        tables: the tables.
        width: characters of a line; None if a line can have any length.
    """
    dropped: dict[str, None] = {}
    for index, table in enumerate(tables):
        fitting = _fitting(table, width)
        dropped |= dict.fromkeys(heading for heading in table.columns if heading not in fitting.columns)
        if index:
            yield ""
        yield from _lines(fitting)
    if dropped and width is not None:
        yield from textwrap.wrap(f"Left out, because {width} characters are too few: {', '.join(dropped)}.", width)


def _fitting(table: Table, width: int | None) -> Table:
    """Return a table without as many of its optional columns as a line has no room for."""
    for heading in table.optional:
        if width is None or max(map(len, _lines(replace(table, title=None)))) <= width:
            break
        kept = [index for index, name in enumerate(table.columns) if name != heading]
        columns = [table.columns[index] for index in kept]
        table = replace(table, columns=columns, rows=[[row[index] for index in kept] for row in table.rows])
    return table


def _lines(table: Table) -> Iterator[str]:
    cells = [[format_cell(value) for value in row] for row in table.rows]
    widths = [max(len(text) for text in column) for column in zip(table.columns, *cells, strict=True)]
    right = [
        bool(table.rows) and all(isinstance(row[index], int | float) or row[index] is None for row in table.rows)
        for index in range(len(widths))
    ]
    if table.title:
        yield table.title
    for row in ([*table.columns], ["-" * width for width in widths], *cells):
        padded = (
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(row, widths, right, strict=True)
        )
        yield "  ".join(padded).rstrip()


def format_fields(result: object) -> Iterator[str]:
    """Return a line per field of a mapping, or one line for another value."""
    if not isinstance(result, Mapping):
        yield format_cell(result)
        return
    width = max((len(str(key)) for key in result), default=0)
    for key, value in result.items():
        yield f"{str(key).replace('_', ' '):<{width}}  {format_cell(value)}".rstrip()


def format_cell(value: object) -> str:
    """Return a value as the text of a cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        # Four digits are enough for a rate; a cosine such as 0.9999998 needs all its nines.
        return f"{value:.7f}" if 0.99 < value < 1 else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={format_cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(format_cell, value)) or "none"
    return str(value)
