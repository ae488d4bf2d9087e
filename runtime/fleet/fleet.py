"""`Fleet`: several devices behind one session. Each batch goes to the device that finishes it first.

A device that fails is opened again. The fleet knows batches' sizes, time and failures; nothing of GPUs or graphs. Callers
keep the places of their rows, so the order in which devices finish does not matter.
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

#: Seconds until a device that failed is tried again, doubled with every try that fails.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0

#: Seconds that closing waits for a device that is being opened again.
CLOSING_SECONDS = 10.0


class Fleet(Session):
    """Session on several devices. Safe to use from several threads; `slots` of them keep every device busy.

    Attributes:
        provider: what the devices run on.
        devices: how many there are.
        slots: batches that they have under way at most, all together.
        fallback: why that is another provider than the one that was wanted, or None.
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
            devices: at least one; their sessions are closed with the fleet.
            check: raises where a session that was opened again does not give the right vectors: the canary.
            fallback: why the devices run another provider than the one that was wanted, or None.
            first_retry: seconds until a device that failed is opened again.
            last_retry: the longest such wait.

        Raises:
            InputError: no device, two of one name, or one without a slot.
        """
        names = [device.name for device in devices]
        if not names or len(set(names)) < len(names) or min(device.slots for device in devices) < 1:
            raise InputError(f"a fleet needs devices with different names and slots for batches, not {names}")
        self.provider = " + ".join(dict.fromkeys(device.session.provider for device in devices))
        self.devices = len(devices)
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
        """Compute one batch on the device that will finish it first, waiting for a slot there.

        A batch that a device fails at runs again on another one. One that has no memory for it stays in service; one that
        fails in any other way does not, unless it is the last and the batch has made another one fail before.

        Raises:
            InputError: the session refused the batch.
            DeviceMemoryError: no device has the memory.
            DeviceLostError: no device is left.
            ProviderError: the fleet was closed, or one device after the other failed at this batch.
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
            except Exception as error:  # noqa: BLE001  whatever a session's library raises, the device failed
                self._failed(member, ticket, error)
            finally:
                self._leave(member, ticket, started, len(batch), done)

    def metrics(self) -> list[DeviceMetric]:
        """Return what each device counts."""
        return [metric for member in self._members for metric in member.metrics(self._share)]

    def close(self) -> None:
        """Wait for the batches under way and release the memory of every device."""
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
            if self._closed or not member.serving:  # somebody waits for its last batch
                self._changed.notify_all()

    def _usable(self, ticket: Ticket) -> list[Member]:
        if self._closed:
            return []
        return [member for member in self._members if member.serving and member not in ticket.refused]

    def _assign(self) -> None:
        """Assign free slots to the waiting batches, in the order in which they came.

        Each is planned where it would end first behind what is under way and planned there already. Where that device has no
        free slot, it waits for it: a slow device idles rather than take the last batch, which it would end later.
        """
        if not self._waiting:
            return
        now = time.perf_counter()
        rates = self._rates(now)
        loads = {member: member.under_way for member in rates}
        left = []
        for ticket in self._waiting:
            best = min(
                (member for member in rates if member not in ticket.refused),
                key=lambda member: (loads[member] + ticket.tokens) / rates[member],
                default=None,
            )
            if best is None:
                left.append(ticket)
                continue
            loads[best] += ticket.tokens
            if best.running < best.device.slots:
                best.begin(now, ticket.tokens)
                ticket.member = best
            else:
                left.append(ticket)
        if len(left) < len(self._waiting):
            self._waiting = left
            self._changed.notify_all()

    def _rates(self, now: float) -> dict[Member, float]:
        """Return tokens per second of each device in service; a device without a measurement counts as fast as the others."""
        if self._closed:
            return {}
        measured = {member: member.rate(now) for member in self._members if member.serving}
        rates = [rate for rate in measured.values() if rate is not None]
        usual = sum(rates) / len(rates) if rates else 1.0
        return {member: usual if rate is None else rate for member, rate in measured.items()}

    def _share(self, member: Member) -> float:
        with self._changed:
            rates = self._rates(time.perf_counter())
            return rates[member] / sum(rates.values()) if member in rates else 0.0

    def _failed(self, member: Member, ticket: Ticket, error: Exception) -> None:
        """Take a device out of service, unless the batch is to blame.

        Raises:
            ProviderError: it is.
        """
        lost = isinstance(error, DeviceLostError)
        with self._changed:
            member.failures += 1
            if not member.serving:  # a batch that was under way when another one failed
                return
            if ticket.suspect is not None and not lost and not self._others(member):
                raise ProviderError(
                    f"a batch of {ticket.tokens} tokens failed on one device after the other, the last being "
                    f"{member.device.name}, which stays in service: {describe_error(error)}. "
                    f"Before: {describe_error(ticket.suspect)}"
                ) from error
            if not lost:
                ticket.suspect = error
            member.serving = False
            member.problem = describe_error(error)
            member.outages += 1
            left = self._others(member)
            if member.device.open is not None and not self._closed:
                name = f"fletcher-recover-{member.device.name}"
                thread = threading.Thread(target=self._recover, args=(member,), name=name, daemon=True)
                self._recovering = [other for other in self._recovering if other.is_alive()]
                self._recovering.append(thread)
                thread.start()
            self._changed.notify_all()
        fields = {"device": member.device.name, "reason": member.problem, "left": left}
        logger.error("device taken out", extra={"fields": fields}, exc_info=error)

    def _others(self, member: Member) -> list[str]:
        """Return the names of the other devices in service."""
        return [other.device.name for other in self._members if other.serving and other is not member]

    def _recover(self, member: Member) -> None:
        """Open a device again until it gives the right vectors, then put it back into service."""
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
            if not member.serving:  # the fleet was closed meanwhile
                close_quietly(session, member.device.name)
                return
            logger.warning("device back in service", extra={"fields": {"device": member.device.name}})
            return

    def _no_device(self, ticket: Ticket) -> ProviderError:
        """Return the error that says why no device takes a batch."""
        if self._closed:
            return ProviderError("the session was closed and cannot compute: load the artifact again")
        if ticket.shortage is not None:
            return ticket.shortage
        problems = "; ".join(f"{member.device.name}: {member.problem}" for member in self._members)
        tried = any(member.device.open is not None for member in self._members)
        what = "They are tried again by themselves" if tried else "Load the artifact again, or on the processor"
        return DeviceLostError(f"no device is left to compute on. {problems}. {what}; see the driver's log for more")
