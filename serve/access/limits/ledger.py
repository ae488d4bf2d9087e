"""`Ledger`: use of the limits by each client, in a table that all processes of a server share.

A rate is counted by GCRA (the generic cell rate algorithm of ATM's traffic management): one number a client and quantity,
the time at which its bucket is full again. A limit a day is a count since midnight UTC. The table is a file that each process
maps, so limits are exact over all fronts; a lock of the file, which ends with its process, excludes the others.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from .balance import DAY_SECONDS, FULL, SECOND, USED, Balance
from .plan import Plan
from .quota import QUANTITIES

__all__ = ["Amounts", "Clocks", "Ledger", "TableLedger"]

#: Amounts of requests, tokens and bytes.
Amounts = tuple[int, int, int]

#: Rows of the table, and rows that are searched for a client. A client whose buckets are full needs no row.
ROWS: Final = 4096
PROBES: Final = 16

#: Seconds after which a client with too many open requests may try again: one of them will have ended.
IN_FLIGHT_RETRY: Final = 1.0

#: Numbers of a row: the client's hash, the time at which each bucket is full, the day, and the amounts of the day. The
#: numbers of open requests of each process follow.
DAY: Final = 4
OPEN: Final = 8

#: The numbers of a row before the open requests.
ROW: Final = struct.Struct(f"{OPEN}q")


class Ledger(Protocol):
    """Use of limits. Safe to use from any thread."""

    #: True if a call may wait for the network, so that it must not run on an event loop.
    remote: bool

    def charge(self, client: str, plan: Plan, amounts: Amounts, *, opens: int = 0, force: bool = False) -> Balance:
        """Charge amounts, all or none.

        Args:
            client: name of the client.
            plan: limits of the client.
            amounts: amounts of requests, tokens and bytes. Negative ones, which `force` allows, give back.
            opens: 1 at the begin of a request, -1 at its end, else 0.
            force: True if the amounts were used already, so that nothing is refused.
        """


class Clocks(Protocol):
    """Clocks of a ledger, which tests replace."""

    def monotonic_ns(self) -> int:
        """Return the time of a clock that all processes of this machine share, in nanoseconds."""

    def time(self) -> float:
        """Return the seconds since 1970."""


class TableLedger:
    """Ledger in memory, or in a file that several processes map."""

    remote = False

    def __init__(self, path: Path | None = None, process: int = 0, processes: int = 1, clocks: Clocks = time) -> None:
        """Open the table.

        Args:
            path: file of the table, in a private folder; None for memory of this process.
            process: number of this process, from 0. Requests that an ended process had open are forgotten.
            processes: number of processes.
            clocks: clocks.
        """
        self._clocks = clocks
        self._process = process
        self._processes = processes
        self._width = OPEN + processes
        size = ROWS * self._width * 8
        self._file: int | None = None
        if path is None:
            memory = mmap.mmap(-1, size)
        else:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._file, size)
            memory = mmap.mmap(self._file, size)
        self._memory = memory
        self._table = memoryview(memory).cast("q")
        self._thread = threading.Lock()
        self._hashes: dict[str, int] = {}
        self._lock()
        try:
            for row in range(ROWS):
                self._table[row * self._width + OPEN + process] = 0
        finally:
            self._unlock()

    def charge(self, client: str, plan: Plan, amounts: Amounts, *, opens: int = 0, force: bool = False) -> Balance:
        """Charge amounts, all or none, as `Ledger.charge`."""
        now, seconds = self._clocks.monotonic_ns(), self._clocks.time()
        self._lock()
        try:
            table, start = self._table, self._row(client, now)
            if opens > 0 and plan.in_flight is not None:
                first = start + OPEN
                if sum(table[first : first + self._processes]) >= plan.in_flight:
                    return Balance("in_flight", IN_FLIGHT_RETRY, plan, (), now, 0.0)
            row = list(ROW.unpack_from(self._memory, start * 8))
            balance = settle(row, plan, amounts, (now, seconds), force=force)
            if not balance.refused:
                ROW.pack_into(self._memory, start * 8, *row)
                if opens:
                    table[start + OPEN + self._process] = max(table[start + OPEN + self._process] + opens, 0)
            return balance
        finally:
            self._unlock()

    def _lock(self) -> None:
        self._thread.acquire()
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def _unlock(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._thread.release()

    def _row(self, client: str, now: int) -> int:
        """Return the start of a client's row; take a free one, or the one whose client has used least, for a new client."""
        code = self._hashes.get(client)
        if code is None:
            digest = hashlib.blake2b(client.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            code = int.from_bytes(digest, "little", signed=True) or 1
            if len(self._hashes) >= ROWS:
                self._hashes.clear()
            self._hashes[client] = code
        table, width = self._table, self._width
        place = code % ROWS
        best, least = place * width, math.inf
        for probe in range(PROBES):
            start = (place + probe) % ROWS * width
            if table[start] == code:
                return start
            use = self._use(start, now)
            if use < least:
                best, least = start, use
        for other in range(width):
            table[best + other] = 0
        table[best] = code
        return best

    def _use(self, start: int, now: int) -> float:
        """Return a measure of what a row would lose: -1 if it is free."""
        table = self._table
        if table[start] == 0:
            return -1.0
        if any(table[start + OPEN : start + self._width]):
            return math.inf
        lag = max(*table[start + FULL : start + DAY], now) - now
        today = int(self._clocks.time()) // DAY_SECONDS
        spent = sum(table[start + USED : start + OPEN]) if table[start + DAY] == today else 0
        return float(lag + spent)


def settle(row: list[int], plan: Plan, amounts: Amounts, clocks: tuple[int, float], *, force: bool) -> Balance:
    """Charge amounts to a client's row, all or none.

    Args:
        row: numbers of the row; they change if the charge succeeds.
        plan: limits.
        amounts: amounts of requests, tokens and bytes.
        clocks: nanoseconds of a monotonic clock, and seconds since 1970.
        force: True if nothing is refused.
    """
    now, seconds = clocks
    today = int(seconds // DAY_SECONDS)
    until_midnight = (today + 1) * DAY_SECONDS - seconds
    if row[DAY] != today:
        row[DAY : DAY + 4] = [today, 0, 0, 0]
    changed, refused, retry = row.copy(), "", 0.0
    for index, cost, capacity in plan.rates:
        amount = amounts[index]
        begin = row[FULL + index]
        if begin < now:
            begin = now
        # An amount above the burst needs a full bucket, and leaves a debt.
        late = begin + min(amount * cost, capacity) - now - capacity
        if late > 1 and amount > 0 and late > retry * SECOND:  # 1 ns is the rounding of the stored time
            refused, retry = QUANTITIES[index], late / SECOND
        changed[FULL + index] = round(begin + amount * cost)
    for index, most in plan.days:
        amount, used = amounts[index], row[USED + index]
        if amount > 0 and used + amount > most and until_midnight > retry:
            refused, retry = f"{QUANTITIES[index]}-day", until_midnight
        changed[USED + index] = max(used + amount, 0)
    if refused and not force:
        return Balance(refused, retry, plan, tuple(row), now, until_midnight)
    row[:] = changed
    return Balance("", 0.0, plan, tuple(changed), now, until_midnight)
