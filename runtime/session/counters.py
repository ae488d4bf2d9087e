"""Counters of a session and metrics of its devices. Other modules add labels and format them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Counters", "DeviceMetric", "EncoderMetrics"]

#: Counters by name: a description, and a function that returns the value.
Counters = Mapping[str, tuple[str, Callable[[], float]]]


@dataclass(frozen=True, slots=True)
class DeviceMetric:
    """`DeviceMetric`: one value of one device, read at each request for metrics.

    Attributes:
        name: name in Prometheus, with the suffix of a total.
        text: description.
        device: name of the device.
        value: returns the value.
        kind: rule that joins the values of several models on one device. A `total` is a counter; totals and each `amount`
            are added, and the mean of a `share` is taken.
    """

    name: str
    text: str
    device: str
    value: Callable[[], float]
    kind: Literal["total", "amount", "share"]


@dataclass(frozen=True, slots=True)
class EncoderMetrics:
    """`EncoderMetrics`: counters and metrics of a loaded model.

    Attributes:
        counters: counters of the whole model.
        devices: metrics of each of its devices; empty on a processor.
    """

    counters: Counters
    devices: Sequence[DeviceMetric] = ()
