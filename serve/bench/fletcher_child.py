"""Fletcher's own child: the encoder, with a clock at each stage."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fletcher
from fletcher.runtime import Encoder, Encodings

from .child import serve

__all__ = ["main"]

#: Texts handed to `Encoder.stream` at a time, as `fletcher-serve embed` does.
CHUNK = 1024


class Timed:
    """A session that counts the seconds in which at least one, and on how many threads it ran."""

    def __init__(self, session: Any) -> None:
        self.provider = session.provider
        self._session = session
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0
        self.busy = self.thread_seconds = 0.0
        self.cells = self.tokens = 0

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Runs the session's."""
        started = time.perf_counter()
        with self._lock:
            if not self._running:
                self._since = started
            self._running += 1
        try:
            values: NDArray[np.float32] = self._session.run(batch, output)
        finally:
            ended = time.perf_counter()
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.busy += ended - self._since
                self.thread_seconds += ended - started
                self.tokens += batch.num_tokens
                self.cells += len(batch) * int(batch.lengths.max())
        return values

    def close(self) -> None:
        """Closes the session's."""
        self._session.close()


class Subject:
    """An encoder without a cache: what comes again is computed again."""

    def __init__(self, directory: str, options: dict[str, Any]) -> None:
        self._encoder = Encoder.load(directory, **options, cache_bytes=0)
        self._session = Timed(self._encoder._workers.session)
        self._encoder._workers.session = self._session
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
        session, stats = self._session, self._encoder.tokenizer.stats
        before = (session.busy, session.thread_seconds, session.cells, session.tokens, stats.seconds)
        started = time.perf_counter()
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        vectors = np.concatenate([found.vectors for found in self._encoder.stream(chunks)])
        seconds = time.perf_counter() - started
        after = (session.busy, session.thread_seconds, session.cells, session.tokens, stats.seconds)
        busy, threads, cells, tokens, tokenising = (new - old for new, old in zip(after, before, strict=True))
        self._last = {
            "tokens": tokens,
            "padding_waste": 1 - tokens / cells,
            "compute_share": threads / (seconds * self._encoder.workers),
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
