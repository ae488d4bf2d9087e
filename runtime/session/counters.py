"""Counters of a session and metrics of its devices, to be labeled and formatted elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Counters", "DeviceMetric", "EncoderMetrics"]

#: By name, a description and a function that reads the value.
Counters = Mapping[str, tuple[str, Callable[[], float]]]


@dataclass(frozen=True, slots=True)
class DeviceMetric:
    """One value of one device, read when it is asked for.

    Attributes:
        name: as Prometheus writes it, a total with its suffix.
        text: description.
        device: name of the device.
        value: reads the value.
        kind: how values of one device that come from several models are joined: a `total` counts and is added, an
            `amount` is added, of a `share` the mean is taken.
    """

    name: str
    text: str
    device: str
    value: Callable[[], float]
    kind: Literal["total", "amount", "share"]


@dataclass(frozen=True, slots=True)
class EncoderMetrics:
    """Everything that a loaded model counts by itself.

    Attributes:
        counters: counts of the whole model.
        devices: values of each of its devices; none on a processor.
    """

    counters: Counters
    devices: Sequence[DeviceMetric] = ()
