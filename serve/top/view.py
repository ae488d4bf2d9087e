"""`render`: a frame as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .frame import Batches, Frame, Queue

__all__ = ["render"]

#: Routes that are shown; the others are counted in a last row.
MOST_ROUTES = 10


def render(frame: Frame | None, title: str, problem: str | None = None) -> RenderableType:
    """Return a frame for the screen.

    Args:
        frame: what the server did; None before there are two scrapes.
        title: the server's address.
        problem: reason why there are no newer values, or None.
    """
    head = Text(title, "bold")
    if problem is not None:
        head.append(f"  {problem}", "bold red")
    if frame is None:
        return Group(head, Text("waiting for values" if problem is None else ""))
    head.append(f"  last {frame.seconds:.1f} s", "dim")
    parts: list[RenderableType] = [head, Text(), _routes(frame), Text(), _stages(frame), Text()]
    parts += [_line("batches", _batches(frame.batches)), _line("queue", _queue(frame.queue)), Text(), _models(frame)]
    if frame.devices:
        parts += [Text(), _devices(frame)]
    return Group(*parts)


def _table(columns: Sequence[str], words: int) -> Table:
    """Return an empty table.

    Args:
        columns: titles.
        words: number of first columns that have words; the others have numbers.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < words else "right", no_wrap=True)
    return table


def _routes(frame: Frame) -> Table:
    table = _table(("requests", "per s", "failed", "p50", "p99"), 1)
    for row in frame.routes[:MOST_ROUTES]:
        name = f"{row.door} {row.route}"
        table.add_row(
            name, _number(row.per_second), _failed(row.failed), _milliseconds(row.p50), _milliseconds(row.p99)
        )
    others = frame.routes[MOST_ROUTES:]
    if others:
        name = f"{len(others)} other routes"
        table.add_row(
            name,
            _number(sum(row.per_second for row in others)),
            _failed(sum(row.failed for row in others)),
            "-",
            "-",
        )
    if not frame.routes:
        table.add_row("none", "0", "0", "-", "-")
    return table


def _stages(frame: Frame) -> Table:
    table = _table(("stage", "per s", "mean", "p50", "p99", "at a time"), 1)
    for row in frame.stages:
        times = (_milliseconds(value) for value in (row.mean, row.p50, row.p99))
        table.add_row(row.stage, _number(row.per_second), *times, _number(row.busy))
    return table


def _models(frame: Frame) -> Table:
    table = _table(("model", "version", "variant", "provider", "canary", "per s"), 5)
    for row in frame.models:
        table.add_row(row.model, row.version, row.variant, row.provider, row.canary, _number(row.per_second))
    return table


def _devices(frame: Frame) -> Table:
    table = _table(("device", "busy", "batches/s", "tokens/s", "memory", "failures"), 1)
    for row in frame.devices:
        table.add_row(
            row.device if row.in_service else f"{row.device} (out of service)",
            _share(row.busy),
            _number(row.batches_per_second),
            _number(row.tokens_per_second),
            "-" if row.memory is None else f"{row.memory / 2**30:.1f} GiB",
            _number(row.failures),
        )
    return table


def _batches(batches: Batches) -> list[tuple[str, str]]:
    parts = [
        ("per s", _number(batches.per_second)),
        ("texts each", _number(batches.texts)),
        ("tokens each", _number(batches.tokens)),
        ("texts/s", _number(batches.texts_per_second)),
        ("tokens/s", _number(batches.tokens_per_second)),
        ("padding", _share(batches.padding)),
        ("cut tokens/s", _number(batches.cut_per_second)),
    ]
    return parts if batches.cache_hits is None else [*parts, ("cache hits", _share(batches.cache_hits))]


def _queue(queue: Queue) -> list[tuple[str, str]]:
    parts = [
        ("tokens", _number(queue.tokens)),
        ("open requests", _number(queue.open_requests)),
        ("parked", _number(queue.parked)),
        ("connections", _number(queue.connections)),
        ("fronts", _number(queue.fronts)),
    ]
    parts += [(f"refused/s ({reason})", _number(rate)) for reason, rate in queue.refused.items()]
    return [*parts, *((f"{kind}/s", _number(rate)) for kind, rate in queue.errors.items())]


def _line(name: str, parts: Sequence[tuple[str, str]]) -> Text:
    text = Text(f"{name:<9}", "bold dim")
    for label, value in parts:
        text.append(f"{label} ", "dim").append(f"{value}   ", "not dim not bold")
    return text


def _number(value: float | None) -> str:
    """Return a number with three digits, or with all digits before the point."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else "<0.001"


def _failed(value: float) -> Text:
    return Text(_number(value), "red" if value else "")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{_number(1000 * value)} ms"
