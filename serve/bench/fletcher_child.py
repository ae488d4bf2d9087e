"""Fletcher's own child: the encoder, with a clock at each stage."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fletcher
from fletcher.model_zoo.decode import decode_json
from fletcher.runtime import Encoder
from fletcher.runtime.batch import Batch
from fletcher.runtime.options.load import LoadOptions
from fletcher.runtime.session.session import Session
from fletcher.runtime.tasks.task import Task

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

    def end(self, began: float, threads: int, batch: Batch) -> None:
        """It ended."""
        now = time.perf_counter()
        with self._lock:
            self._running -= 1
            if not self._running:
                self.busy += now - self._since
            self.thread_seconds += threads * (now - began)
            self.tokens += batch.num_tokens
            self.cells += len(batch) * int(batch.lengths.max())


class Timed(Session):
    """A session whose runs a clock counts."""

    def __init__(self, session: Session, clock: Clock, threads: int) -> None:
        self.provider = session.provider
        self._session = session
        self._clock = clock
        self._threads = threads

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
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


class OutputClock:
    """Counts the seconds in which vectors were made of what the graph gave: cut, cast, put in the texts' order."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def prepared(self, prepare: Any) -> Any:
        """`Encoder.prepare`, whose tasks' last step is counted; `stream` takes one such step at a time."""

        def counted(*args: Any, **options: Any) -> Task:
            task: Task = prepare(*args, **options)

            def finish(values: NDArray[np.float32]) -> Any:
                started = time.perf_counter()
                made = task.finish(values)
                self.seconds += time.perf_counter() - started
                return made

            return replace(task, finish=finish)

        return counted


class Subject:
    """An encoder without a cache: what comes again is computed again."""

    def __init__(self, directory: str, options: LoadOptions) -> None:
        self._encoder = Encoder.load(directory, options)
        self._clock = Clock()
        self._output = OutputClock()
        self._encoder.prepare = self._output.prepared(self._encoder.prepare)  # type: ignore[method-assign]
        workers = self._encoder._workers
        workers.session = Timed(workers.session, self._clock, 1)
        info = self._encoder.info
        runs = f"{info.provider}, {info.workers} workers, batches of {info.token_budget} tokens"
        if workers.alone is not None:
            workers.alone = Timed(workers.alone, self._clock, workers.count)
            runs += ", another session for a batch alone"
        self.versions = f"fletcher {fletcher.__version__}, {runs}, {self._encoder.tokenizer.implementation}"
        self._last: dict[str, Any] = {}

    def set_batch_size(self, size: int) -> None:
        """It forms its batches itself."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One text directly, many as a stream of chunks."""
        if len(texts) == 1:
            return self._encoder.embed(texts).vectors
        before = self._counts()
        started = time.perf_counter()
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        vectors = np.concatenate([found.vectors for found in self._encoder.stream(chunks)])
        seconds = time.perf_counter() - started
        counts = zip(self._counts(), before, strict=True)
        busy, threads, cells, tokens, tokenizing, output = (new - old for new, old in counts)
        self._last = {
            "tokens": tokens,
            "padding_waste": 1 - tokens / cells,
            "compute_share": min(threads / (seconds * self._encoder.info.workers), 1.0),
            "busy_share": busy / seconds,
            "tokenizing_share": tokenizing / seconds,
            "output_share": output / seconds,
        }
        return vectors

    def _counts(self) -> tuple[float, ...]:
        clock = self._clock
        tokenizing = self._encoder.tokenizer.stats.seconds
        return clock.busy, clock.thread_seconds, clock.cells, clock.tokens, tokenizing, self._output.seconds

    def accuracy(self) -> float:
        """The canary's smallest cosine."""
        return self._encoder.check_canary().min_cosine

    def stages(self) -> dict[str, Any]:
        """Of the last job."""
        return self._last


def main() -> None:
    """Serves the artifact and the options of the command line."""
    directory, options = sys.argv[1:]
    serve(lambda: Subject(directory, decode_json(options, LoadOptions)))


if __name__ == "__main__":
    main()
