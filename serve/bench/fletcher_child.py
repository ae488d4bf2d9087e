"""Fletcher's own child: the encoder, with a clock at each stage."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import fletcher
from fletcher.runtime import Encoder, Encodings

from .child import serve

__all__ = ["main"]

#: Texts handed to `Encoder.stream` at a time, as `fletcher-serve embed` does.
CHUNK = 1024


class Clock:
    """Counts the seconds in which at least one session ran, and those of all threads together.

    Attributes:
        busy: seconds in which at least one ran.
        thread_seconds: of all that ran, times their threads.
        tokens: that they computed.
        cells: of their rectangles, texts x longest.
    """

    def __init__(self) -> None:
        self.busy = self.thread_seconds = 0.0
        self.cells = self.tokens = 0
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0

    def begin(self) -> float:
        """A run begins; the time."""
        now = time.perf_counter()
        with self._lock:
            if not self._running:
                self._since = now
            self._running += 1
        return now

    def end(self, began: float, threads: int, batch: Encodings) -> None:
        """It ended."""
        now = time.perf_counter()
        with self._lock:
            self._running -= 1
            if not self._running:
                self.busy += now - self._since
            self.thread_seconds += threads * (now - began)
            self.tokens += batch.num_tokens
            self.cells += len(batch) * int(batch.lengths.max())


class Timed:
    """A session whose runs a clock counts."""

    def __init__(self, session: Any, clock: Clock, threads: int) -> None:
        self.provider = session.provider
        self._session = session
        self._clock = clock
        self._threads = threads

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Runs the session's."""
        began = self._clock.begin()
        try:
            values: NDArray[np.float32] = self._session.run(batch, output)
        finally:
            self._clock.end(began, self._threads, batch)
        return values

    def close(self) -> None:
        """Closes the session's."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Subject:
    """An encoder without a cache: what comes again is computed again."""

    def __init__(self, directory: str, options: dict[str, Any]) -> None:
        self._encoder = Encoder.load(directory, **options, cache_bytes=0)
        self._clock = Clock()
        workers = self._encoder._workers
        workers.session = Timed(workers.session, self._clock, 1)
        if workers.alone is not None:
            workers.alone = Timed(workers.alone, self._clock, workers.count)
        runs = (
            f"{self._encoder.provider}, {self._encoder.workers} workers, batches of {self._encoder.token_budget} tokens"
        )
        self.versions = f"fletcher {fletcher.__version__}, {runs}, {self._encoder.tokenizer.implementation}"
        self._last: dict[str, Any] = {}

    def set_batch_size(self, size: int) -> None:
        """It forms its batches itself."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One text directly, many as a stream of chunks."""
        if len(texts) == 1:
            return self._encoder.embed(texts).vectors
        clock, stats = self._clock, self._encoder.tokenizer.stats
        before = (clock.busy, clock.thread_seconds, clock.cells, clock.tokens, stats.seconds)
        started = time.perf_counter()
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        vectors = np.concatenate([found.vectors for found in self._encoder.stream(chunks)])
        seconds = time.perf_counter() - started
        after = (clock.busy, clock.thread_seconds, clock.cells, clock.tokens, stats.seconds)
        busy, threads, cells, tokens, tokenising = (new - old for new, old in zip(after, before, strict=True))
        self._last = {
            "tokens": tokens,
            "padding_waste": 1 - tokens / cells,
            "compute_share": min(threads / (seconds * self._encoder.workers), 1.0),
            "busy_share": busy / seconds,
            "tokenizing_share": tokenising / seconds,
        }
        return vectors

    def accuracy(self) -> float:
        """The canary's smallest cosine."""
        return self._encoder.check_canary().min_cosine

    def stages(self) -> dict[str, Any]:
        """Of the last job."""
        return self._last


def main() -> None:
    """Serves the artefact and the options of the command line."""
    directory, options = sys.argv[1:]
    serve(lambda: Subject(directory, json.loads(options)))


if __name__ == "__main__":
    main()
