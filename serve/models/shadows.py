"""`Shadows`: copies of requests for shadow versions. It compares their answers with the answers that clients got."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import FletcherError

from ..engine.embed_request import EmbedRequest
from ..engine.rows_request import RowsRequest
from ..observe.metrics import Metrics
from .version import ModelVersion

__all__ = ["Shadows", "drift"]

#: Largest number of open copies. Further copies are skipped, so that a slow shadow uses bounded memory and delays no client.
MAX_COPIES = 256

#: Histogram buckets of 1 - cosine. They separate rounding of float32, float16 and int8, and another model.
DRIFTS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)


class Shadows:
    """Copies of requests for shadow versions. A copy is sent after the client's request was answered; drift is counted."""

    def __init__(self, metrics: Metrics) -> None:
        """Start without copies.

        Args:
            metrics: receives the counts.
        """
        self._drift = metrics.histogram(
            "fletcher_shadow_drift",
            "1 - cosine of a shadow's vector and the answered one",
            ["model", "version"],
            DRIFTS,
        )
        self._skipped = metrics.labeled(
            "fletcher_shadow_skipped", "Copies that were not compared", ["model", "version", "reason"]
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fletcher-shadow")
        self._copies = 0
        self._lock = threading.Lock()

    def follow(self, shadow: ModelVersion, future: Future[Any], request: EmbedRequest | RowsRequest) -> None:
        """Send a copy of a request to the shadow after the request is answered.

        The copy has the same deadline. Its stages are not recorded.

        Args:
            shadow: the shadow version.
            future: future of the request's answer.
            request: the request.
        """
        share = shadow.spec.shadow_share
        if share < 1.0 and random.random() >= share:
            return
        with self._lock:
            if self._copies >= MAX_COPIES:
                self.skip(shadow, "busy")
                return
            self._copies += 1
        future.add_done_callback(lambda answered: self._answered(shadow, answered, request))

    def stop(self) -> None:
        """Stop sending copies. Wait for the copy that is being submitted."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _answered(self, shadow: ModelVersion, answered: Future[Any], request: EmbedRequest | RowsRequest) -> None:
        try:
            if answered.cancelled() or answered.exception() is not None:
                self._done()
            else:
                self._pool.submit(self._copy, shadow, answered.result(), request)
        except RuntimeError:  # the pool was shut down: the server is stopping
            self._done()

    def _copy(self, shadow: ModelVersion, answer: Any, request: EmbedRequest | RowsRequest) -> None:
        engine = shadow.engine
        if engine is None:
            self.skip(shadow, "asleep")
            self._done()
            return
        try:
            future = engine.submit(request)
        except FletcherError as error:
            self.skip(shadow, type(error).__name__)
            self._done()
            return
        future.add_done_callback(lambda copied: self._compare(shadow, answer, copied))

    def _compare(self, shadow: ModelVersion, answer: Any, copied: Future[Any]) -> None:
        try:
            if copied.cancelled() or (error := copied.exception()) is not None:
                self.skip(shadow, "cancelled" if copied.cancelled() else type(error).__name__)
                return
            values = drift(answer, copied.result())
            if values is None:
                self.skip(shadow, "incomparable")
                return
            child = self._drift(shadow.spec.name, shadow.spec.version)
            for value in values.tolist():
                child.observe(value)
        finally:
            self._done()

    def skip(self, shadow: ModelVersion, reason: str) -> None:
        """Count a copy that is not compared."""
        self._skipped(shadow.spec.name, shadow.spec.version, reason).inc()

    def _done(self) -> None:
        with self._lock:
            self._copies -= 1


def drift(answer: object, copy: object) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return 1 - cosine of each pair of vectors, float64, (n,); None if the answers cannot be compared."""
    first, second = _vectors(answer), _vectors(copy)
    if first is None or second is None:
        return None
    if first.shape != second.shape or first.dtype != second.dtype or first.dtype == np.uint8:
        return None
    first, second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    values: np.ndarray[Any, np.dtype[np.float64]] = np.maximum(1.0 - cosines, 0.0)
    return values


def _vectors(answer: object) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return the vectors of an answer: `Embeddings`, or the values of rows that another process tokenized."""
    if isinstance(answer, Embeddings):
        return answer.vectors
    return answer if isinstance(answer, np.ndarray) else None
