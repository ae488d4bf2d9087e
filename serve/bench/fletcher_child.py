"""Child process of a benchmark that runs Fletcher's encoder, with a clock at each stage."""

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
    """Clock of the runs of all sessions.

    Attributes:
        busy: seconds in which at least one session ran.
        thread_seconds: sum over all runs of seconds times threads.
        tokens: number of computed tokens.
        cells: sum over all batches of texts times the longest text, in tokens.
    """

    def __init__(self) -> None:
        self.busy = self.thread_seconds = 0.0
        self.cells = self.tokens = 0
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0

    def begin(self) -> float:
        """Note the start of a run, and return the time."""
        now = time.perf_counter()
        with self._lock:
            if not self._running:
                self._since = now
            self._running += 1
        return now

    def end(self, began: float, threads: int, batch: Batch) -> None:
        """Note the end of a run."""
        now = time.perf_counter()
        with self._lock:
            self._running -= 1
            if not self._running:
                self.busy += now - self._since
            self.thread_seconds += threads * (now - began)
            self.tokens += batch.num_tokens
            self.cells += len(batch) * int(batch.lengths.max())


class Timed(Session):
    """A session whose runs are measured by a clock."""

    def __init__(self, session: Session, clock: Clock, threads: int) -> None:
        self.provider = session.provider
        self._session = session
        self._clock = clock
        self._threads = threads

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Run the session."""
        began = self._clock.begin()
        try:
            values: NDArray[np.float32] = self._session.run(batch, output)
        finally:
            self._clock.end(began, self._threads, batch)
        return values

    def close(self) -> None:
        """Close the session."""
        self._session.close()


class OutputClock:
    """Clock of the step that makes vectors of the graph's outputs: cutting, casting and ordering them by text.

    Attributes:
        seconds: seconds of this step in all tasks.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def prepared(self, prepare: Any) -> Any:
        """Return a replacement of `Encoder.prepare` that measures `finish` of each task."""

        def counted(*args: Any, **options: Any) -> Task:
            task: Task = prepare(*args, **options)

            def finish(values: NDArray[np.float32]) -> Any:
                started = time.perf_counter()
                result = task.finish(values)
                self.seconds += time.perf_counter() - started
                return result

            return replace(task, finish=finish)

        return counted


class Subject:
    """An encoder without a cache, so that repeated texts are computed again."""

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
        """Do nothing: the encoder chooses its batches."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed one text directly, and several as a stream of chunks."""
        if len(texts) == 1:
            return self._encoder.embed(texts).vectors
        before = self._counts()
        started = time.perf_counter()
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        vectors = np.concatenate([part.vectors for part in self._encoder.stream(chunks)])
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
        """Return the smallest cosine of the canary."""
        return self._encoder.check_canary().min_cosine

    def stages(self) -> dict[str, Any]:
        """Return the shares of the last job."""
        return self._last


def main() -> None:
    """Serve the artifact with the options of the command line."""
    directory, options = sys.argv[1:]
    serve(lambda: Subject(directory, decode_json(options, LoadOptions)))


if __name__ == "__main__":
    main()
