"""`Fleet`: session that computes on several devices. Each batch goes to the device that will finish it first.

A device that fails is opened again. The fleet knows the sizes of batches, their times and failures; it does not know GPUs or
graphs. Each call of `run` returns the rows of its own batch, so the order in which devices finish does not matter.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..errors import DeviceLostError, DeviceMemoryError, InputError, ProviderError
from ..machine.affinity import ThreadBinding
from ..session.counters import DeviceMetric
from ..session.session import Session
from .member import FleetDevice, Member, Ticket, close_quietly, describe_error, reopen

__all__ = ["Fleet"]

logger = logging.getLogger("fletcher.runtime.fleet.fleet")

#: Seconds until a device that failed is opened again: the first wait, which doubles after each failed attempt, and the
#: longest wait.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0

#: Seconds that `close` waits for a device that is being opened again.
CLOSING_SECONDS = 10.0


class Fleet(Session):
    """`Fleet`: session on several devices. Safe to use from several threads; `slots` threads keep every device busy.

    Attributes:
        provider: titles of the devices' providers, joined by ` + `.
        devices: number of devices.
        small_tokens: smallest one of the devices' sessions; see `Session`.
        slots: largest number of batches in progress on all devices together.
        fallback: reason why the devices run on another provider than the requested one, or None.
    """

    def __init__(
        self,
        devices: Sequence[FleetDevice],
        *,
        check: Callable[[Session], None] | None = None,
        fallback: str | None = None,
        first_retry: float = FIRST_RETRY,
        last_retry: float = LAST_RETRY,
    ) -> None:
        """Join devices.

        Args:
            devices: at least one device. The fleet closes their sessions.
            check: compares the canary's vectors of a session that was opened again with the reference, and raises an error
                if they differ. None checks nothing.
            fallback: reason why the devices run on another provider than the requested one, or None.
            first_retry: seconds until a device that failed is opened again.
            last_retry: longest such wait, in seconds.

        Raises:
            InputError: there is no device, two devices have the same name, or a device has no slot.
        """
        names = [device.name for device in devices]
        if not names or len(set(names)) < len(names) or min(device.slots for device in devices) < 1:
            raise InputError(f"a fleet needs devices with different names and at least one slot each, not {names}")
        self.provider = " + ".join(dict.fromkeys(device.session.provider for device in devices))
        self.devices = len(devices)
        self.small_tokens = min(device.session.small_tokens for device in devices)
        self.slots = sum(device.slots for device in devices)
        self._members = tuple(Member(device) for device in devices)
        self.fallback = fallback
        self._check = check
        self._retries = (first_retry, last_retry)
        self._waiting: list[Ticket] = []
        self._recovering: list[threading.Thread] = []
        self._binding = ThreadBinding()
        self._closed = False
        self._changed = threading.Condition()

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch on the device that will finish it first, and wait for a free slot of that device.

        If a device fails to compute a batch, the batch runs again on another device. A device that has too little memory for
        the batch stays in service. A device that fails in any other way is taken out of service, unless it is the last one
        and another device failed on the same batch before.

        Raises:
            InputError: the session rejects the batch.
            DeviceMemoryError: no device has enough memory for the batch.
            DeviceLostError: no device is in service.
            ProviderError: the fleet is closed, or several devices failed on this batch.
        """
        ticket = Ticket(batch.num_tokens)
        while True:
            member = self._enter(ticket)
            started = time.perf_counter()
            done = False
            try:
                self._binding.move(member.device.processors)
                values = member.session.run(batch, output)
                done = True
                return values
            except InputError:
                raise
            except DeviceMemoryError as error:
                ticket.refused += (member,)
                ticket.shortage = error
            except Exception as error:  # noqa: BLE001  a library may raise any error when a device fails
                self._failed(member, ticket, error)
            finally:
                self._leave(member, ticket, started, len(batch), done)

    def metrics(self) -> list[DeviceMetric]:
        """Return the metrics of each device."""
        return [metric for member in self._members for metric in member.metrics(self._share)]

    def close(self) -> None:
        """Wait for the batches in progress, and release the memory of every device."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not any(member.running for member in self._members))
        for thread in self._recovering:
            thread.join(CLOSING_SECONDS)
        for member in self._members:
            if member.serving:
                member.session.close()
            else:
                close_quietly(member.session, member.device.name)

    def _enter(self, ticket: Ticket) -> Member:
        """Wait for a device and return it."""
        with self._changed:
            ticket.member = None
            self._waiting.append(ticket)
            try:
                self._assign()
                if ticket.member is None:
                    self._changed.wait_for(lambda: ticket.member is not None or not self._usable(ticket))
            except BaseException:  # an interrupted wait
                if ticket.member is not None:
                    now = time.perf_counter()
                    ticket.member.end(now, now, ticket.tokens, 0, False)
                    self._assign()
                raise
            finally:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
            if ticket.member is None:
                raise self._no_device(ticket)
            return ticket.member

    def _leave(self, member: Member, ticket: Ticket, started: float, texts: int, done: bool) -> None:
        with self._changed:
            member.end(time.perf_counter(), started, ticket.tokens, texts, done)
            self._assign()
            if self._closed or not member.serving:  # `close` or `_recover` waits until no batch runs
                self._changed.notify_all()

    def _usable(self, ticket: Ticket) -> list[Member]:
        """Return the devices that may compute a batch."""
        if self._closed:
            return []
        return [member for member in self._members if member.serving and member not in ticket.refused]

    def _assign(self) -> None:
        """Assign free slots to the waiting batches, in the order of their arrival.

        A batch is planned on the device that would finish it first, after the batches that are in progress or planned there.
        If that device has no free slot, the batch waits for it. A slow device therefore stays idle when a fast one would
        finish the batch earlier.
        """
        if not self._waiting:
            return
        now = time.perf_counter()
        rates = self._rates(now)
        loads = {member: member.tokens_in_progress for member in rates}
        waiting = []
        for ticket in self._waiting:
            best = min(
                (member for member in rates if member not in ticket.refused),
                key=lambda member: (loads[member] + ticket.tokens) / rates[member],
                default=None,
            )
            if best is None:
                waiting.append(ticket)
                continue
            loads[best] += ticket.tokens
            if best.running < best.device.slots:
                best.begin(now, ticket.tokens)
                ticket.member = best
            else:
                waiting.append(ticket)
        if len(waiting) < len(self._waiting):
            self._waiting = waiting
            self._changed.notify_all()

    def _rates(self, now: float) -> dict[Member, float]:
        """Return tokens per second of each device in service; a device without a measurement gets the mean of the others."""
        if self._closed:
            return {}
        measured = {member: member.rate(now) for member in self._members if member.serving}
        rates = [rate for rate in measured.values() if rate is not None]
        mean = sum(rates) / len(rates) if rates else 1.0
        return {member: mean if rate is None else rate for member, rate in measured.items()}

    def _share(self, member: Member) -> float:
        """Return a device's share of the tokens per second of all devices in service."""
        with self._changed:
            rates = self._rates(time.perf_counter())
            return rates[member] / sum(rates.values()) if member in rates else 0.0

    def _failed(self, member: Member, ticket: Ticket, error: Exception) -> None:
        """Take a device out of service, unless the batch is the cause of the failure.

        Raises:
            ProviderError: the batch is the cause.
        """
        lost = isinstance(error, DeviceLostError)
        with self._changed:
            member.failures += 1
            if not member.serving:  # another batch failed first
                return
            if ticket.suspect is not None and not lost and not self._others(member):
                raise ProviderError(
                    f"a batch of {ticket.tokens} tokens failed on several devices. The last one, {member.device.name}, stays "
                    f"in service: {describe_error(error)}. Error of an earlier device: {describe_error(ticket.suspect)}"
                ) from error
            if not lost:
                ticket.suspect = error
            member.serving = False
            member.problem = describe_error(error)
            member.outages += 1
            others = self._others(member)
            if member.device.open is not None and not self._closed:
                name = f"fletcher-recover-{member.device.name}"
                thread = threading.Thread(target=self._recover, args=(member,), name=name, daemon=True)
                self._recovering = [other for other in self._recovering if other.is_alive()]
                self._recovering.append(thread)
                thread.start()
            self._changed.notify_all()
        fields = {"device": member.device.name, "reason": member.problem, "left": others}
        logger.error("device taken out", extra={"fields": fields}, exc_info=error)

    def _others(self, member: Member) -> list[str]:
        """Return the names of the other devices in service."""
        return [other.device.name for other in self._members if other.serving and other is not member]

    def _recover(self, member: Member) -> None:
        """Open a device again until its vectors are right, then put it back into service."""
        delay, longest = self._retries
        with self._changed:
            self._changed.wait_for(lambda: not member.running)
        close_quietly(member.session, member.device.name)
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, delay):
                    return
            try:
                session = reopen(member.device, self._check)
            except Exception as error:  # noqa: BLE001  as in `run`
                delay = min(2 * delay, longest)
                member.problem = describe_error(error)
                fields = {"device": member.device.name, "reason": member.problem, "next_seconds": delay}
                logger.info("device still out", extra={"fields": fields})
                continue
            with self._changed:
                if not self._closed:
                    member.replace(session)
                    self._assign()
            if not member.serving:  # the fleet was closed while the device was opened
                close_quietly(session, member.device.name)
                return
            logger.warning("device back in service", extra={"fields": {"device": member.device.name}})
            return

    def _no_device(self, ticket: Ticket) -> ProviderError:
        """Return the error with the reason why no device can compute a batch."""
        if self._closed:
            return ProviderError("the session was closed and cannot compute: load the artifact again")
        if ticket.shortage is not None:
            return ticket.shortage
        problems = "; ".join(f"{member.device.name}: {member.problem}" for member in self._members)
        reopens = any(member.device.open is not None for member in self._members)
        advice = "Fletcher opens them again" if reopens else "Load the artifact again, or on the processor"
        return DeviceLostError(f"all devices failed. {problems}. {advice}; the log of the driver says more")
