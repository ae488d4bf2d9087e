"""`Backlog`: the queue of tokenized requests, and the forming of batches. It knows tokens, not models, HTTP or Flight."""

from __future__ import annotations

import threading
import time

from fletcher.runtime.errors import FletcherError
from fletcher.runtime.tasks.task import Task

from .admission import Admission
from .fair_queue import FairQueue
from .open_request import OpenRequest, Piece

__all__ = ["Backlog"]

#: Requests looked at for one batch when more wait than it holds: enough to find similar lengths, cheap to sort.
WINDOW = 256


class Backlog:
    """A queue that hands out batches. Requests share turns: a large one gives one batch, then queues again."""

    def __init__(self, admission: Admission) -> None:
        """
        Args:
            admission: the open requests; its lock guards the queue, too.
        """
        self._admission = admission
        self._lock = admission.lock
        self._arrival = threading.Condition(self._lock)
        self._waiting = FairQueue()
        self._closed = False

    def push(self, request: OpenRequest, task: Task) -> None:
        """Queue an admitted request, now with its rows (at least one). Do nothing after `close`: it is settled then."""
        tokens = task.encodings.num_tokens
        with self._lock:
            if self._closed:
                return
            request.task = task
            request.encodings = task.encodings
            request.untaken = len(task.encodings)
            self._admission.charge(request, request.cost - tokens)
            self._waiting.push(request)
            self._arrival.notify()

    def take(self, budget: int) -> list[Piece] | None:
        """Wait for work and form a batch of at most `budget` tokens, or of one longer text; return None after `close`.

        Requests that every caller cancelled, and those that are late, are settled here, before they cost compute.
        """
        while True:
            dropped: list[tuple[OpenRequest, FletcherError]] = []
            with self._lock:
                while not self._waiting.heap and not self._closed:
                    self._arrival.wait()
                if not self._waiting.heap:
                    return None
                pieces = self._gather(budget, dropped)
            for request, error in dropped:  # outside the lock: a future may call its caller back
                self._admission.settle(request, error=error)
            if pieces:
                return pieces

    def _gather(self, budget: int, dropped: list[tuple[OpenRequest, FletcherError]]) -> list[Piece]:
        """Form a batch; add requests that are not worth computing to `dropped`."""
        now = time.monotonic()
        queue, admission = self._waiting, self._admission
        window: list[OpenRequest] = []
        while queue.heap and len(window) < WINDOW:
            request = queue.draw()
            if request.settled:
                continue
            if (error := request.reason_to_drop(now)) is not None:
                dropped.append((request, error))
            else:
                window.append(request)
        if admission.tokens > budget and len(window) > 2:
            # The request whose turn it is always goes; those of its class that are most like it go with it, so that
            # attention pads little, and others if there is room left.
            like, priority = window[0].next_length, window[0].terms.priority
            window[1:] = sorted(
                window[1:], key=lambda request: (request.terms.priority != priority, abs(request.next_length - like))
            )
        pieces: list[Piece] = []
        unfinished: list[OpenRequest] = []
        room = budget
        for request in window:
            # A batch has one output: the rows of late chunking go into another batch.
            fits = room > 0 and (not pieces or request.task.output == pieces[0].request.task.output)
            piece = request.take(room, budget, 0 if pieces else 1) if fits else None
            if piece is None:
                queue.put_back(request)
                continue
            pieces.append(piece)
            tokens = piece.encodings.num_tokens
            room -= tokens
            admission.charge(request, tokens)
            if request.untaken:
                unfinished.append(request)
        if pieces:
            queue.advance(pieces[0].request)
        for request in unfinished:
            queue.push(request)
        if pieces and (queue.heap or admission.rate.sampling):
            admission.rate.count_drained(budget - room, now, waiting=bool(queue.heap))
        if queue.heap:
            self._arrival.notify()
        return pieces

    def close(self) -> None:
        """End `take` for every worker."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._arrival.notify_all()
