"""How a command tells what it does: bars on a terminal, plain lines elsewhere, JSON for machines. Knows no command.

stdout carries lines and the result, stderr carries progress and warnings, so that a result can be piped. With `as_json`
stdout carries the result object alone.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import numpy as np
import typer

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress", "Reporter", "SilentReporter", "Table"]

#: Seconds between two plain lines of one progress: a log stays readable after hours.
LINE_INTERVAL_S: Final = 5.0


class Progress(Protocol):
    """What a command tells its progress to."""

    def advance(self, *amounts: int) -> None:
        """Adds what was done since the last call, one amount per unit, in the order of `Reporter.progress`'s units."""


@dataclass(frozen=True, slots=True)
class Table:
    """A result for people.

    Attributes:
        columns: headings.
        rows: cells; numbers are set flush right.
        title: a line above, or None.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Reporter:
    """Tells lines, progress, warnings and the result of one command.

    Attributes:
        as_json: the result goes to stdout as JSON, everything else to stderr.
    """

    as_json: bool = False

    def line(self, text: str) -> None:
        """A line for people."""
        typer.echo(text, err=self.as_json)

    def warn(self, text: str) -> None:
        """Something that the user should know and that does not stop the command."""
        typer.echo(f"warning: {text}", err=True)

    @contextmanager
    def progress(
        self,
        label: str,
        *,
        total: int | None = None,
        units: Sequence[str] = ("steps",),
        note: Callable[[], str] = lambda: "",
    ) -> Iterator[Progress]:
        """Progress on stderr: a bar on a terminal, at most a line every `LINE_INTERVAL_S` seconds elsewhere.

        Args:
            label: what is being done ("embedding").
            total: how many of the first unit there are to do, or None when nobody knows.
            units: what is counted, each with its rate; "bytes" is told in MB.
            note: what else to say, asked each time something is told.

        Yields:
            The progress; call its `advance` with one amount per unit.
        """
        if self.as_json or not sys.stderr.isatty():
            lines = _Lines(label, _Counts(total, units, note))
            yield lines
            lines.finish()
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[told]}"),
        ]
        times = [TimeRemainingColumn() if total is not None else TimeElapsedColumn()]
        with RichProgress(*columns, *times, console=Console(stderr=True)) as bars:
            yield _Bar(bars, bars.add_task(label, total=total, told=""), _Counts(total, units, note))

    def result(self, result: object, table: Table | None = None) -> None:
        """The command's result, told last.

        Args:
            result: a msgspec struct, a dataclass, a mapping or a sequence; paths and numpy scalars may be in it.
            table: how people see it; by default a line per field.
        """
        if self.as_json:
            encoded = msgspec.json.encode(result, enc_hook=_to_builtin)
            typer.echo(msgspec.json.format(encoded, indent=2).decode())
            return
        for text in (
            _format_table(table) if table else _format_fields(msgspec.to_builtins(result, enc_hook=_to_builtin))
        ):
            typer.echo(text)


class SilentReporter(Reporter):
    """Reporter of library calls: prints neither lines nor progress; a warning becomes a Python warning."""

    def line(self, text: str) -> None:
        """Print nothing."""

    def warn(self, text: str) -> None:
        """Issue a Python warning."""
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    @contextmanager
    def progress(
        self,
        label: str,
        *,
        total: int | None = None,
        units: Sequence[str] = ("steps",),
        note: Callable[[], str] = lambda: "",
    ) -> Iterator[Progress]:
        """Yield a progress that prints nothing."""
        yield _NoProgress()


class _NoProgress:
    """Progress that is not shown."""

    def advance(self, *amounts: int) -> None:
        """Print nothing."""


def _to_builtin(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"a result cannot hold a {type(value).__name__}")


# For people -----------------------------------------------------------------------------------------------------------


def _format_cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        # Four digits tell a rate; a cosine such as 0.9999998 needs all its nines.
        return f"{value:.7f}" if 0.99 < value < 1 else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_format_cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_format_cell, value))
    return str(value)


def _format_fields(result: object) -> Iterator[str]:
    if not isinstance(result, Mapping):
        yield _format_cell(result)
        return
    width = max((len(str(key)) for key in result), default=0)
    for key, value in result.items():
        yield f"{str(key).replace('_', ' '):<{width}}  {_format_cell(value)}".rstrip()


def _format_table(table: Table) -> Iterator[str]:
    cells = [[_format_cell(value) for value in row] for row in table.rows]
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


class _Counts:
    """How much was done, and how fast."""

    def __init__(self, total: int | None, units: Sequence[str], note: Callable[[], str]) -> None:
        self.total = total
        self._note = note
        self.units = tuple(units)
        self.done = [0] * len(self.units)
        self.started = time.monotonic()

    def add(self, amounts: Sequence[int]) -> None:
        if len(amounts) != len(self.units):
            raise ValueError(f"this progress counts {', '.join(self.units)}: give {len(self.units)} amounts")
        self.done = [done + amount for done, amount in zip(self.done, amounts, strict=True)]

    def told(self) -> str:
        """`1,024/20,000 texts, 512 texts/s, 9,001 tokens/s, 37 s left`."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        first = _amount(self.done[0], self.units[0])
        of_total = f"/{_amount(self.total, self.units[0])}" if self.total is not None else ""
        parts = [f"{first}{of_total} {_unit(self.units[0])}"]
        parts += [
            f"{_amount(round(done / seconds), unit)} {_unit(unit)}/s"
            for done, unit in zip(self.done, self.units, strict=True)
        ]
        if self.total and 0 < self.done[0] < self.total:
            parts.append(f"{seconds / self.done[0] * (self.total - self.done[0]):,.0f} s left")
        if note := self._note():
            parts.append(note)
        return ", ".join(parts)


def _unit(unit: str) -> str:
    return "MB" if unit == "bytes" else unit


def _amount(count: int, unit: str) -> str:
    return f"{count / 1e6:,.1f}" if unit == "bytes" else f"{count:,}"


class _Lines:
    """Progress where nobody watches: a log, a pipe."""

    def __init__(self, label: str, counts: _Counts) -> None:
        self._label = label
        self._counts = counts
        self._told: list[int] = []
        self._next_line_at = time.monotonic() + LINE_INTERVAL_S

    def advance(self, *amounts: int) -> None:
        self._counts.add(amounts)
        if time.monotonic() >= self._next_line_at:
            self.finish()

    def finish(self) -> None:
        """Tells where it stands now, unless the last line did."""
        if self._told != self._counts.done:
            typer.echo(f"{self._label}: {self._counts.told()}", err=True)
        self._told = self._counts.done
        self._next_line_at = time.monotonic() + LINE_INTERVAL_S


class _Bar:
    """Progress on a terminal."""

    def __init__(self, bars: RichProgress, task: TaskID, counts: _Counts) -> None:
        self._bars = bars
        self._task = task
        self._counts = counts

    def advance(self, *amounts: int) -> None:
        self._counts.add(amounts)
        self._bars.update(self._task, completed=self._counts.done[0], told=self._counts.told())
