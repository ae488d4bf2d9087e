"""`Reporter`: printer of the progress and the result of a command, as bars on a terminal, as lines elsewhere, or as JSON.

Lines and the result go to stdout; progress and warnings go to stderr, so that a result can be piped. With `as_json` only the
result object goes to stdout. This module does not know commands.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from threading import Lock
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import typer

from fletcher.model_zoo.progress import Counter

from .tables import Table, format_fields, format_tables

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Reporter", "Table"]

#: Seconds between two lines of one counter, so that the log of a run of hours stays readable.
LINE_INTERVAL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reporter:
    """`Reporter`: printer of lines, warnings, counts and the result of one command. It is a `model_zoo.progress.Progress`.

    Attributes:
        as_json: whether the result is printed to stdout as JSON, and everything else to stderr.
    """

    as_json: bool = False

    def line(self, text: str) -> None:
        """Print a line."""
        typer.echo(text, err=self.as_json)

    def warn(self, text: str) -> None:
        """Print a warning to stderr: a problem that does not stop the command."""
        typer.echo(f"warning: {text}", err=True)

    @contextmanager
    def count(
        self,
        label: str,
        *,
        total: int | None = None,
        done: int = 0,
        units: Sequence[str] = ("steps",),
        note: Callable[[], str] = lambda: "",
    ) -> Iterator[Counter]:
        """Show a counter on stderr: a bar on a terminal, otherwise at most one line per `LINE_INTERVAL_S` seconds.

        Args:
            label: name of the operation ("embedding").
            total: expected amount of the first unit; None if it is unknown.
            done: amount of the first unit that an earlier run finished, which does not count for the rate.
            units: names of the counted units, each shown with its rate; "bytes" is shown in MB.
            note: function that returns a text for the end of the counts; called each time that they are shown.

        Yields:
            The counter.
        """
        if self.as_json or not sys.stderr.isatty():
            lines = _Lines(label, _Counts(total, units, note, done))
            yield lines
            lines.finish()
            return
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        # In a narrow terminal the bar becomes shorter, then the counts lose their end.
        columns = [
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len(label))),
            BarColumn(),
            TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            TextColumn("{task.fields[counts]}"),
            # It moves between two counts, too; the counts have the time that is left.
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        ]
        with RichProgress(*columns, console=Console(stderr=True)) as bars:
            counts = _Counts(total, units, note, done)
            task = bars.add_task(label, total=total, completed=done, counts=counts.text())
            yield _Bar(bars, task, counts)

    def result(self, result: object, table: Table | Sequence[Table] | None = None) -> None:
        """Print the command's result. Call it last.

        Args:
            result: a msgspec struct, a dataclass, a mapping or a sequence; it may contain paths and numpy scalars.
            table: the result as text, one table or several; None prints a line per field. `as_json` ignores it.
        """
        if self.as_json:
            encoded = msgspec.json.encode(result, enc_hook=_to_builtin)
            typer.echo(msgspec.json.format(encoded, indent=2).decode())
            return
        if table is None:
            lines = format_fields(msgspec.to_builtins(result, enc_hook=_to_builtin))
        else:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            lines = format_tables([table] if isinstance(table, Table) else table, width)
        for text in lines:
            typer.echo(text)


def _to_builtin(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"a result cannot hold a {type(value).__name__}")


class _Counts:
    """`_Counts`: amounts that are done, and their rates."""

    def __init__(self, total: int | None, units: Sequence[str], note: Callable[[], str], done: int = 0) -> None:
        self.total = total
        self._note = note
        self.units = tuple(units)
        self.done = [done, *[0] * (len(self.units) - 1)]
        self._before = done
        self.started = time.monotonic()

    def add(self, amounts: Sequence[int], total: int | None) -> None:
        if len(amounts) != len(self.units):
            raise ValueError(f"this counter counts {', '.join(self.units)}: give {len(self.units)} amounts")
        self.done = [done + amount for done, amount in zip(self.done, amounts, strict=True)]
        self.total = self.total if total is None else total

    def text(self) -> str:
        """Return the counts as text: `1,024/20,000 texts, 512 texts/s, 9,001 tokens/s, 37 s left`.

        Fewer than one unit per second is shown as the seconds of one: `5/11 recipes, 24 s each, 2.4 min left`.
        """
        seconds = max(time.monotonic() - self.started, 1e-9)
        first = _amount(self.done[0], self.units[0])
        of_total = f"/{_amount(self.total, self.units[0])}" if self.total is not None else ""
        parts = [f"{first}{of_total} {_unit(self.units[0])}"]
        now = self.done[0] - self._before
        if now:
            parts.append(_first_rate(now / seconds, self.units[0]))
        parts += [
            f"{_amount(round(done / seconds), unit)} {_unit(unit)}/s"
            for done, unit in zip(self.done[1:], self.units[1:], strict=True)
        ]
        if self.total and now and self.done[0] < self.total:
            parts.append(f"{_duration(seconds / now * (self.total - self.done[0]))} left")
        if note := self._note():
            parts.append(note)
        return ", ".join(parts)


def _first_rate(per_second: float, unit: str) -> str:
    """Return the rate of the unit that is counted; a rate below 1 as the time of one."""
    if unit != "bytes" and per_second < 1:
        return f"{_duration(1 / per_second)} each"
    return f"{_amount(round(per_second), unit)} {_unit(unit)}/s"


def _duration(seconds: float) -> str:
    """Return a time as text: seconds, minutes from two minutes on, hours from two hours on."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _unit(unit: str) -> str:
    return "MB" if unit == "bytes" else unit


def _amount(count: int, unit: str) -> str:
    return f"{count / 1e6:,.1f}" if unit == "bytes" else f"{count:,}"


class _Lines:
    """`_Lines`: counter that prints lines for a log or a pipe."""

    def __init__(self, label: str, counts: _Counts) -> None:
        self._label = label
        self._counts = counts
        self._printed: list[int] = []
        self._next_line_at = time.monotonic() + LINE_INTERVAL_S
        self._lock = Lock()

    def advance(self, *amounts: int, total: int | None = None) -> None:
        with self._lock:
            self._counts.add(amounts, total)
            if time.monotonic() >= self._next_line_at:
                self._print()

    def finish(self) -> None:
        """Print the final counts, unless the last line had them."""
        with self._lock:
            self._print()

    def _print(self) -> None:
        if self._printed != self._counts.done:
            typer.echo(f"{self._label}: {self._counts.text()}", err=True)
        self._printed = self._counts.done
        self._next_line_at = time.monotonic() + LINE_INTERVAL_S


class _Bar:
    """`_Bar`: counter that moves a bar on a terminal."""

    def __init__(self, bars: RichProgress, task: TaskID, counts: _Counts) -> None:
        self._bars = bars
        self._task = task
        self._counts = counts
        self._lock = Lock()

    def advance(self, *amounts: int, total: int | None = None) -> None:
        with self._lock:
            counts = self._counts
            counts.add(amounts, total)
            self._bars.update(self._task, completed=counts.done[0], total=counts.total, counts=counts.text())
