"""`FleetDevice`, `Member` and `Ticket`: a device, its state in a fleet, and a batch that the fleet computes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..errors import DeviceLostError, DeviceMemoryError, ProviderError
from ..session.counters import DeviceMetric
from ..session.session import Session
from .throughput import Throughput

__all__ = ["FleetDevice", "Member", "Ticket", "close_quietly", "describe_error", "reopen"]

logger = logging.getLogger("fletcher.runtime.fleet.fleet")


@dataclass(frozen=True, slots=True)
class FleetDevice:
    """`FleetDevice`: device that computes.

    Attributes:
        name: name of the device in metrics and messages, for example `cuda:0`.
        session: open session on the device. The fleet closes it.
        slots: largest number of batches in progress. With 2 or 3, copies overlap with computation.
        processors: logical processors near the device. Empty does not bind threads.
        open: opens another session on the device after a failure. None does not open it again.
        memory: returns the bytes that the session uses on the device, or raises `ProviderError`. None if they are not known.
        metrics: further metrics of the device.
    """

    name: str
    session: Session
    slots: int = 2
    processors: tuple[int, ...] = ()
    open: Callable[[], Session] | None = None
    memory: Callable[[], float] | None = None
    metrics: Sequence[DeviceMetric] = ()


class Member:
    """`Member`: state of a device in a fleet. The fleet holds its lock while it calls these methods.

    Attributes:
        device: the device.
        session: session in use: the first one of the device, or one that was opened after a failure.
        serving: whether the device is in service.
        problem: reason of the last failure; empty if the device never failed.
        running: number of batches in progress.
        tokens_in_progress: tokens of these batches.
        speed: measured speed.
        batches, texts, tokens: numbers that were computed so far.
        failures: number of batches that failed.
        outages: number of times that the device was taken out of service.
    """

    __slots__ = (
        "_lost_counts",
        "batches",
        "device",
        "failures",
        "outages",
        "problem",
        "running",
        "serving",
        "session",
        "speed",
        "texts",
        "tokens",
        "tokens_in_progress",
    )

    def __init__(self, device: FleetDevice) -> None:
        self.device = device
        self.session = device.session
        self.serving = True
        self.problem = ""
        self.running = self.tokens_in_progress = 0
        self.speed = Throughput()
        self.batches = self.texts = self.tokens = self.failures = self.outages = 0
        self._lost_counts: dict[str, float] = {}

    def replace(self, session: Session) -> None:
        """Put the device back into service with another session, and keep the counts of the lost session."""
        for name, (_, value) in self.session.counters().items():
            self._lost_counts[name] = self._lost_counts.get(name, 0.0) + value()
        self.session = session
        self.speed.forget()
        self.serving = True

    def begin(self, now: float, tokens: int) -> None:
        """Count the start of a batch, which takes a slot."""
        if not self.running:
            self.speed.begin(now)
        self.running += 1
        self.tokens_in_progress += tokens

    def end(self, now: float, started: float, tokens: int, texts: int, done: bool) -> None:
        """Count the end of a batch, which frees its slot."""
        self.running -= 1
        self.tokens_in_progress -= tokens
        self.speed.end(now, started, tokens if done else 0, texts if done else 0)
        if done:
            self.batches += 1
            self.texts += texts
            self.tokens += tokens

    def _memory(self) -> float:
        """Return the bytes that the session uses, or NaN if the device is lost: its error must not hide the other metrics."""
        try:
            return math.nan if self.device.memory is None else float(self.device.memory())
        except ProviderError:
            return math.nan

    def _count(self, name: str) -> float:
        """Return the count of all sessions that the device had."""
        counter = self.session.counters().get(name)
        return self._lost_counts.get(name, 0.0) + (0.0 if counter is None else counter[1]())

    def rate(self, now: float) -> float | None:
        """Return tokens per second, or None without a recent measurement."""
        return self.speed.tokens if self.running or not self.speed.is_old(now) else None

    def metrics(self, share: Callable[[Member], float]) -> list[DeviceMetric]:
        """Return the metrics of the device.

        Args:
            share: returns the share of a member in the tokens per second of the fleet.
        """
        name, speed = self.device.name, self.speed
        metrics = [
            DeviceMetric("fletcher_gpu_throughput", "Measured texts per second", name, lambda: speed.texts, "share"),
            DeviceMetric(
                "fletcher_gpu_batch_time_seconds",
                "Seconds that the last batch took",
                name,
                lambda: speed.batch_seconds,
                "share",
            ),
            DeviceMetric(
                "fletcher_gpu_weight",
                "Share of the measured tokens per second of all devices",
                name,
                lambda: share(self),
                "share",
            ),
            DeviceMetric(
                "fletcher_gpu_batch_count_total", "Batches computed", name, lambda: float(self.batches), "total"
            ),
            DeviceMetric("fletcher_gpu_sequences_total", "Texts computed", name, lambda: float(self.texts), "total"),
            DeviceMetric("fletcher_gpu_tokens_total", "Tokens computed", name, lambda: float(self.tokens), "total"),
            DeviceMetric(
                "fletcher_gpu_busy_seconds_total",
                "Seconds with at least one batch in progress",
                name,
                lambda: speed.busy_seconds,
                "total",
            ),
            DeviceMetric(
                "fletcher_gpu_failures_total", "Batches that failed", name, lambda: float(self.failures), "total"
            ),
            DeviceMetric(
                "fletcher_gpu_outages_total",
                "Number of times that the device was taken out of service",
                name,
                lambda: float(self.outages),
                "total",
            ),
            DeviceMetric(
                "fletcher_gpu_in_service",
                "1 if the device takes batches, else 0",
                name,
                lambda: float(self.serving),
                "share",
            ),
        ]
        if self.device.memory is not None:
            text = "Bytes that sessions use on the device; NaN if they are not known"
            metrics.append(DeviceMetric("fletcher_vram_allocated_bytes", text, name, self._memory, "amount"))
        for count, (text, _) in self.session.counters().items():
            value = partial(self._count, count)
            metrics.append(DeviceMetric(f"fletcher_{count}_total", text, name, value, "total"))
        return [*metrics, *self.device.metrics]


@dataclass(slots=True, eq=False)
class Ticket:
    """`Ticket`: batch that waits for a device or runs on it.

    Attributes:
        tokens: number of tokens in the batch.
        member: device that computes the batch, or None while the batch waits.
        refused: devices that had too little memory for the batch.
        shortage: error of the last of these devices.
        suspect: last error of a device for which the batch may be the cause.
    """

    tokens: int
    member: Member | None = None
    refused: tuple[Member, ...] = ()
    shortage: DeviceMemoryError | None = None
    suspect: Exception | None = None


def reopen(device: FleetDevice, check: Callable[[Session], None] | None) -> Session:
    """Open another session on a device that failed, and check it.

    Raises:
        DeviceLostError: the device has no function that opens it again.
        Exception: any error of opening or of the check.
    """
    if device.open is None:
        raise DeviceLostError(f"{device.name} cannot be opened again")
    session = device.open()
    try:
        if check is not None:
            check(session)
    except BaseException:
        close_quietly(session, device.name)
        raise
    return session


def describe_error(error: Exception) -> str:
    """Return the type and the message of an error as one text."""
    return f"{type(error).__name__}: {error}"


def close_quietly(session: Session, name: str) -> None:
    """Close a session that may be broken, and log a failure."""
    try:
        session.close()
    except Exception as error:  # noqa: BLE001  the session of a lost device may raise any error
        logger.info("session not closed", extra={"fields": {"device": name, "reason": describe_error(error)}})
