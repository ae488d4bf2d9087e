"""Runs batches on a model's device: a breaker for when it fails, a spare one for what it fails at, a look at what it gave."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import ProviderError

from ..observe.metrics import Metrics
from .backend import Backend
from .breaker import Breaker

__all__ = ["Device"]

logger = logging.getLogger("fletcher.serve.engine.engine")


class Device:
    """What computes batches. Safe to use from several threads.

    Attributes:
        encoder: the first choice.
        breaker: opens where it fails again and again.
        spare: opens a second device for what the first one fails at, or None.
        opened: the second device, once it was needed.
    """

    def __init__(self, encoder: Backend, spare: Callable[[], Backend] | None, metrics: Metrics) -> None:
        """
        Args:
            encoder, spare: see above.
            metrics: where to count.
        """
        self.encoder = encoder
        self.breaker = Breaker()
        self.spare = spare
        self._metrics = metrics
        self.opened: Backend | None = None
        self._lock = threading.Lock()

    @property
    def failing(self) -> bool:
        """Whether nothing would compute a batch now."""
        return self.breaker.is_open and self.spare is None

    def run(self, batch: Encodings, output: str | None) -> NDArray[np.float32]:
        """Computes on the device; what it fails at once more on the spare one, if there is one."""
        if self.spare is not None and self.breaker.is_open:
            return self._on_spare(batch, output)
        try:
            values = self.encoder.run(batch, output)
        except Exception:
            self.breaker.fail()
            if self.spare is None:
                raise
            logger.warning("a batch failed; it runs again on the spare device", exc_info=True)
            return self._on_spare(batch, output)
        self.breaker.succeed()
        return values

    def _on_spare(self, batch: Encodings, output: str | None) -> NDArray[np.float32]:
        with self._lock:
            if self.opened is None:
                assert self.spare is not None
                self.opened = self.spare()
        self._metrics.retried.inc()
        return self.opened.run(batch, output)

    def check(self, values: NDArray[np.float32], rows: int) -> NDArray[np.bool_] | None:
        """Which rows are finite, or None where all are.

        Raises:
            ProviderError: there are not as many rows as were asked for, or they are of another length.
        """
        if values.shape != (rows, self.encoder.dimension):
            raise ProviderError(f"the session gave values of shape {values.shape} where {rows} rows were wanted")
        finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(values), axis=1)
        return None if finite.all() else finite

    def close_spare(self, *, idle: bool) -> None:
        """Lets go of the spare device, and closes it if nothing runs on it."""
        device, self.opened, self.spare = self.opened, None, None
        close = getattr(device, "close", None)
        if idle and close is not None:
            close()
