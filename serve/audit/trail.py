"""`Trail`: the way of a process's entries to the audit log. Requests only append to a queue; a thread does the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fletcher.runtime.os_errors import explain

from ..errors import AuditError
from ..observe.record import RequestRecord
from .entry import Entry, Event, body_of, of_event, of_request
from .rule import FullRule

__all__ = ["MOST_WAITING", "MOST_WAITING_WITH_TEXTS", "Trail", "WriteLines"]

logger = logging.getLogger("fletcher.serve.audit")

#: Function that writes contents of lines, and raises `OSError` if it cannot.
WriteLines = Callable[[Sequence[bytes]], None]

#: Largest number of entries that wait. About 1 KiB each; with texts up to 128 KiB.
MOST_WAITING: Final = 1 << 16
MOST_WAITING_WITH_TEXTS: Final = 1 << 11

#: Largest number of entries that are written at a time, and of bytes after which no further one is taken.
BATCH: Final = 4096
BATCH_BYTES: Final = 4 << 20

#: Seconds between two writes, and between two attempts while the log cannot be written.
PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0

#: Seconds that `close` waits for the last lines.
CLOSE_SECONDS: Final = 2.0


class Trail:
    """Queue of entries and the thread that writes them. It is open from its construction until `close`. Safe to use from any
    thread.

    Attributes:
        dropped: number of entries that were dropped.
        refused: number of requests that were refused because the log could not be written.
        failing: True while the log cannot be written.
    """

    def __init__(self, write: WriteLines, rule: FullRule, most_waiting: int = MOST_WAITING) -> None:
        """Begin to write.

        Args:
            write: writes contents of lines.
            rule: rule while they cannot be written.
            most_waiting: largest number of entries that wait.
        """
        self._write = write
        self._rule = rule
        self._most = most_waiting
        self._waiting: deque[tuple[float, RequestRecord] | Entry] = deque()
        self._batch: list[bytes] = []
        self._told = 0
        self._mutex = threading.Lock()
        self._ending = threading.Event()
        self.dropped = self.refused = 0
        self.failing = False
        self._thread = threading.Thread(target=self._run, name="fletcher-audit", daemon=True)
        self._thread.start()

    def record(self, record: RequestRecord) -> None:
        """Take the record of a finished request: a consumer of records."""
        if record.error == "AuditError":  # the log would grow by the requests that it refuses
            self.refused += 1
        elif len(self._waiting) < self._most:
            self._waiting.append((time.time(), record))
        else:
            self._drop()

    def note(self, event: Event, fields: Mapping[str, str | int] = {}) -> None:
        """Take an event.

        Args:
            event: kind of the event.
            fields: fields of `Entry`.
        """
        self._waiting.append(of_event(event, time.time(), fields))

    def note_change(self, fields: Mapping[str, str]) -> None:
        """Take a change by an operator. `fields` are those of `Entry`."""
        self.note("change", fields)

    def check(self) -> None:
        """Refuse a request that could not be recorded, if the rule says so.

        Raises:
            AuditError: the log cannot be written.
        """
        if self._rule == "stop" and (self.failing or len(self._waiting) >= self._most):
            raise AuditError("this server cannot write its audit log, and answers no request without it", RETRY_SECONDS)

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._ending.set()
        self._thread.join(CLOSE_SECONDS)
        left = len(self._waiting) + len(self._batch)
        if left:
            logger.error("the audit log lacks its last lines", extra={"fields": {"lines": left}})

    def _run(self) -> None:
        while True:
            ending = self._ending.wait(RETRY_SECONDS if self.failing else PAUSE_SECONDS)
            while self._waiting or self._batch:
                try:
                    if not self._batch:
                        self._batch = self._take()
                    self._write(self._batch)
                except OSError as error:
                    self._fail(explain(error))
                    break
                self._batch = []
                if self.failing:
                    self.failing = False
                    logger.info("the audit log is written again", extra={"fields": {"dropped": self.dropped}})
            if ending:
                return

    def _take(self) -> list[bytes]:
        """Return the contents of the next lines."""
        bodies: list[bytes] = []
        size = 0
        if self.dropped > self._told:
            bodies.append(body_of(of_event("dropped", time.time(), {"count": self.dropped - self._told})))
            self._told = self.dropped
        while self._waiting and len(bodies) < BATCH and size < BATCH_BYTES:
            one = self._waiting.popleft()
            try:
                bodies.append(body := body_of(one if isinstance(one, Entry) else of_request(one[1], one[0])))
                size += len(body)
            except Exception:  # a defect: the other lines are written
                logger.exception("a line of the audit log could not be made")
                self._drop()
        return bodies

    def _drop(self) -> None:
        with self._mutex:
            self.dropped += 1

    def _fail(self, reason: str) -> None:
        if not self.failing:
            self.failing = True
            fields = {"reason": reason, "rule": self._rule}
            logger.error("the audit log cannot be written", extra={"fields": fields})
