"""What a session counts by device. Whoever shows it decides on labels and format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

__all__ = ["Counters", "DeviceMetric", "session_counters"]

#: By name, what it is, and how to read it.
Counters = Mapping[str, tuple[str, Callable[[], float]]]


@dataclass(frozen=True, slots=True)
class DeviceMetric:
    """One value of one device, read when somebody asks.

    Attributes:
        name: as Prometheus writes it, a total with its suffix.
        text: what it is.
        device: whose.
        value: reads it.
        kind: how values of one device that come from several models belong together: a `total` counts and is added, an
            `amount` is added, of a `share` the mean is taken.
    """

    name: str
    text: str
    device: str
    value: Callable[[], float]
    kind: Literal["total", "amount", "share"]


@runtime_checkable
class _Counting(Protocol):
    def counters(self) -> Counters: ...


def session_counters(session: object) -> Counters:
    """What a session counts by itself; nothing of one that counts nothing."""
    return session.counters() if isinstance(session, _Counting) else {}
