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
from typing import Final, Literal, Protocol

from .balance import DAY, FULL, USED, Balance
from .plan import DAY_SECONDS, SECOND, Plan
from .quota import QUANTITIES

__all__ = ["Amounts", "Clocks", "Ledger", "StoreRule", "TableLedger"]

#: Rule while the store of limits does not answer: `alone` counts in this server alone, `refuse` refuses limited clients.
StoreRule = Literal["alone", "refuse"]

#: Amounts of requests, tokens and bytes.
Amounts = tuple[int, int, int]

#: Rows of the table, and rows that are searched for a client. A client whose buckets are full needs no row.
ROWS: Final = 4096
PROBES: Final = 16

#: Seconds after which a client with too many open requests may try again: one of them will have ended.
IN_FLIGHT_RETRY: Final = 1.0

#: Place in a row of the open requests of each process. Before them are the client's hash, the time at which each bucket is
#: full, the day, and the amounts of the day.
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

        Raises:
            LimitStoreError: the store of limits does not answer, and nothing is forced.
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
        self._starts: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        for row in range(ROWS):  # no other process changes these numbers
            self._table[row * self._width + OPEN + process] = 0

    def charge(self, client: str, plan: Plan, amounts: Amounts, *, opens: int = 0, force: bool = False) -> Balance:
        """Charge amounts, all or none, as `Ledger.charge`."""
        with self._thread:
            if self._file is None:
                return self._charge(client, plan, amounts, opens, force)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                return self._charge(client, plan, amounts, opens, force)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _charge(self, client: str, plan: Plan, amounts: Amounts, opens: int, force: bool) -> Balance:
        """Charge amounts, while no other thread or process does."""
        now = self._clocks.monotonic_ns()
        seconds = self._clocks.time() if plan.days else 0.0
        table, start = self._table, self._starts.get(client)
        if start is None or table[start] != self._codes[client]:
            start = self._row(client, now)
        if opens > 0 and plan.in_flight is not None:
            first = start + OPEN
            if sum(table[first : first + self._processes]) >= plan.in_flight:
                return Balance("in_flight", IN_FLIGHT_RETRY, plan, (), now, seconds)
        before = ROW.unpack_from(self._memory, start * 8)
        row = list(before)
        refused, retry = settle(row, plan, amounts, (now, seconds), force=force)
        if refused:
            return Balance(refused, retry, plan, before, now, seconds)
        ROW.pack_into(self._memory, start * 8, *row)
        if opens:
            mine = start + OPEN + self._process
            table[mine] = max(table[mine] + opens, 0)
        return Balance("", 0.0, plan, tuple(row), now, seconds)

    def _row(self, client: str, now: int) -> int:
        """Return the start of a client's row; take a free one, or the one whose client has used least, for a new client."""
        code = self._codes.get(client)
        if code is None:
            digest = hashlib.blake2b(client.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            code = int.from_bytes(digest, "little", signed=True) or 1
            if len(self._codes) >= ROWS:
                self._codes.clear()
                self._starts.clear()
            self._codes[client] = code
        table, width = self._table, self._width
        place = code % ROWS
        best, least = place * width, math.inf
        for probe in range(PROBES):
            start = (place + probe) % ROWS * width
            if table[start] == code:
                self._starts[client] = start
                return start
            use = self._use(start, now)
            if use < least:
                best, least = start, use
        for other in range(width):
            table[best + other] = 0
        table[best] = code
        self._starts[client] = best
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


def settle(
    row: list[int], plan: Plan, amounts: Amounts, clocks: tuple[int, float], *, force: bool
) -> tuple[str, float]:
    """Charge amounts to a client's row.

    Args:
        row: numbers of the row; they change, also if a limit refuses.
        plan: limits.
        amounts: amounts of requests, tokens and bytes.
        clocks: nanoseconds of a monotonic clock, and seconds since 1970.
        force: True if nothing is refused.

    Returns:
        The name of the limit that refuses, empty if none does, and the seconds after which it would not.
    """
    now, seconds = clocks
    refused, retry = "", 0.0
    for index, cost, capacity in plan.rates:
        amount = amounts[index]
        if amount == 0:
            continue
        begin, used = row[FULL + index], amount * cost
        if begin < now:
            begin = now
        if amount > 0 and not force:
            # An amount above the burst needs a full bucket, and leaves a debt.
            late = begin + (used if used < capacity else capacity) - now - capacity
            if late > 1 and late > retry * SECOND:  # 1 ns is the rounding of the stored time
                refused, retry = QUANTITIES[index], late / SECOND
        row[FULL + index] = round(begin + used)
    if plan.days:
        today = int(seconds // DAY_SECONDS)
        if row[DAY] != today:
            row[DAY : DAY + 4] = [today, 0, 0, 0]
        until_midnight = (today + 1) * DAY_SECONDS - seconds
        for index, most in plan.days:
            amount, count = amounts[index], row[USED + index] + amounts[index]
            if amount > 0 and not force and count > most and until_midnight > retry:
                refused, retry = f"{QUANTITIES[index]}-day", until_midnight
            row[USED + index] = count if count > 0 else 0
    return refused, retry
