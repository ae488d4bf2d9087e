"""What a session counts by device. Whoever shows it decides on labels and format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["DeviceMetric"]


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
