"""`FleetDevice`, `Member` and `Ticket`: a device, its state in a fleet, and a batch on its way through the fleet."""

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
    """Device that computes.

    Attributes:
        name: of the device, as people shall see it: `cuda:0`.
        session: open; the fleet closes it.
        slots: batches that may be under way on it; with 2 or 3, copies overlap computing.
        processors: logical processors near it; empty leaves threads where they are.
        open: opens another session on it after it failed; None leaves it out for good.
        memory: reads the bytes that the session takes on it, and may raise `ProviderError`; None if that is not known.
        metrics: what else is counted of it.
    """

    name: str
    session: Session
    slots: int = 2
    processors: tuple[int, ...] = ()
    open: Callable[[], Session] | None = None
    memory: Callable[[], float] | None = None
    metrics: Sequence[DeviceMetric] = ()


class Member:
    """A device in a fleet; the fleet locks.

    Attributes:
        device: which one.
        session: what runs now: the device's, or one that was opened after it failed.
        serving: whether it takes batches.
        problem: why it does not; empty if it never failed.
        running: batches under way.
        under_way: their tokens.
        speed: how fast it is.
        batches, texts, tokens: computed so far.
        failures: batches that it failed at.
        outages: times that it was taken out.
    """

    __slots__ = (
        "_gone",
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
        "under_way",
    )

    def __init__(self, device: FleetDevice) -> None:
        self.device = device
        self.session = device.session
        self.serving = True
        self.problem = ""
        self.running = self.under_way = 0
        self.speed = Throughput()
        self.batches = self.texts = self.tokens = self.failures = self.outages = 0
        self._gone: dict[str, float] = {}

    def replace(self, session: Session) -> None:
        """Put the device back into service with another session; the counts of the lost session are kept."""
        for name, (_, value) in self.session.counters().items():
            self._gone[name] = self._gone.get(name, 0.0) + value()
        self.session = session
        self.speed.forget()
        self.serving = True

    def begin(self, now: float, tokens: int) -> None:
        """Note that a batch takes a slot."""
        if not self.running:
            self.speed.begin(now)
        self.running += 1
        self.under_way += tokens

    def end(self, now: float, started: float, tokens: int, texts: int, done: bool) -> None:
        """Note that a batch gives its slot back."""
        self.running -= 1
        self.under_way -= tokens
        self.speed.end(now, started, tokens if done else 0, texts if done else 0)
        if done:
            self.batches += 1
            self.texts += texts
            self.tokens += tokens

    def _memory(self) -> float:
        """Return bytes; NaN for a lost device, whose error must not hide the other metrics."""
        try:
            return math.nan if self.device.memory is None else float(self.device.memory())
        except ProviderError:
            return math.nan

    def _count(self, name: str) -> float:
        counter = self.session.counters().get(name)
        return self._gone.get(name, 0.0) + (0.0 if counter is None else counter[1]())

    def rate(self, now: float) -> float | None:
        """Return tokens per second, or None if nothing was measured lately."""
        return self.speed.tokens if self.running or not self.speed.is_old(now) else None

    def metrics(self, share: Callable[[Member], float]) -> list[DeviceMetric]:
        """Return what it counts.

        Args:
            share: its part of the fleet's speed.
        """
        name, speed = self.device.name, self.speed
        metrics = [
            DeviceMetric("fletcher_gpu_throughput", "Texts a second, measured", name, lambda: speed.texts, "share"),
            DeviceMetric(
                "fletcher_gpu_batch_time_seconds",
                "How long the last batch took",
                name,
                lambda: speed.batch_seconds,
                "share",
            ),
            DeviceMetric(
                "fletcher_gpu_weight",
                "Part of all devices' measured tokens a second",
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
                "Seconds with at least one batch under way",
                name,
                lambda: speed.busy_seconds,
                "total",
            ),
            DeviceMetric(
                "fletcher_gpu_failures_total", "Batches that failed", name, lambda: float(self.failures), "total"
            ),
            DeviceMetric(
                "fletcher_gpu_outages_total", "Times taken out of service", name, lambda: float(self.outages), "total"
            ),
            DeviceMetric(
                "fletcher_gpu_in_service", "1 where it takes batches", name, lambda: float(self.serving), "share"
            ),
        ]
        if self.device.memory is not None:
            text = "Bytes that sessions take on the device; NaN if it is not known"
            metrics.append(DeviceMetric("fletcher_vram_allocated_bytes", text, name, self._memory, "amount"))
        for count, (text, _) in self.session.counters().items():
            value = partial(self._count, count)
            metrics.append(DeviceMetric(f"fletcher_{count}_total", text, name, value, "total"))
        return [*metrics, *self.device.metrics]


@dataclass(slots=True, eq=False)
class Ticket:
    """Batch on its way through the fleet.

    Attributes:
        tokens: it holds.
        member: the device that was given to it, or None while it waits.
        refused: devices that had no memory for it.
        shortage: what the last of them said.
        suspect: what it made a device fail with, where the device may not be to blame.
    """

    tokens: int
    member: Member | None = None
    refused: tuple[Member, ...] = ()
    shortage: DeviceMemoryError | None = None
    suspect: Exception | None = None


def reopen(device: FleetDevice, check: Callable[[Session], None] | None) -> Session:
    """Open another session on a device that failed, and check it.

    Raises:
        Exception: whatever opening or the check raises.
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
    """Return an error as one line."""
    return f"{type(error).__name__}: {error}"


def close_quietly(session: Session, name: str) -> None:
    """Close a session that may be broken; a failure is logged."""
    try:
        session.close()
    except Exception as error:  # noqa: BLE001  a lost device's session cannot give back what it no longer has
        logger.info("session not closed", extra={"fields": {"device": name, "reason": describe_error(error)}})
