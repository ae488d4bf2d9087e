"""`Failover`: runs batches on a model's backend, with a breaker for failures in a row and a spare backend."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import DeviceMemoryError, FailingError, NotFiniteError, ProviderError

from ..observe.metrics import Metrics
from .backend import Backend, close_backend
from .breaker import Breaker

__all__ = ["Failover"]

logger = logging.getLogger("fletcher.serve.engine.engine")


class Failover:
    """A model's backend and its spare backend. Safe to use from several threads.

    Attributes:
        backend: the first backend.
        breaker: opens after several batches in a row failed on the first backend.
        spare: opens the spare backend for the batches that fail on the first one, or None.
        opened: the spare backend; None before the first batch needs it.
    """

    def __init__(self, backend: Backend, spare: Callable[[], Backend] | None, metrics: Metrics) -> None:
        """Start with the first backend.

        Args:
            backend, spare: see the attributes.
            metrics: receives the count of batches that ran on the spare backend.
        """
        self.backend = backend
        self.breaker = Breaker()
        self.spare = spare
        self.opened: Backend | None = None
        self._info = backend.info
        self._dimension = backend.info.dimension
        self._metrics = metrics
        self._lock = threading.Lock()

    def check(self) -> None:
        """Reject a request if no backend would compute it now.

        Raises:
            FailingError: the breaker is open, and there is no spare backend.
        """
        if self.spare is None and (left := self.breaker.remaining()) > 0:
            self._metrics.refused("failing")
            seconds = max(left, 1.0)
            raise FailingError(
                f"the model's device failed several batches in a row; it is tried again in {seconds:.0f} s", seconds
            )

    def run(self, batch: Encodings, output: str | None, rows: int) -> NDArray[np.float32]:
        """Compute a batch. If it fails on the first backend, compute it on the spare one, if there is one.

        Args:
            batch: token ids.
            output: name of the graph's output, or of several ones; None is the first output.
            rows: expected number of rows of the values.

        Returns:
            float32, (rows, dimension), or (rows, width) for an output of another width.

        Raises:
            ProviderError: the values have another shape.
            Exception: an error of the backend.
        """
        if self.spare is not None and self.breaker.is_open:
            values = self._run_on_spare(batch, output)
        else:
            try:
                values = self.backend.run(batch, output)
            except Exception as error:
                # Texts of one client that give NaN, or are too long for the device, must not make it refuse the others.
                if not isinstance(error, NotFiniteError | DeviceMemoryError):
                    self.breaker.fail()
                if self.spare is None:
                    raise
                logger.warning("a batch failed and runs again on the spare device", exc_info=True)
                values = self._run_on_spare(batch, output)
            else:
                if self.breaker.failures:
                    self.breaker.succeed()
        width = self._dimension if output is None else self._info.width(output)
        if values.shape != (rows, width):
            raise ProviderError(
                f"the session returned values of shape {values.shape} instead of {(rows, width)}: report this, "
                "or choose another variant"
            )
        return values

    def _run_on_spare(self, batch: Encodings, output: str | None) -> NDArray[np.float32]:
        with self._lock:
            if self.opened is None:
                assert self.spare is not None
                self.opened = self.spare()
        self._metrics.retried.inc()
        return self.opened.run(batch, output)

    def close_spare(self, *, idle: bool) -> None:
        """Drop the spare backend.

        Args:
            idle: True if no batch runs on it; only then it is closed.
        """
        spare, self.opened, self.spare = self.opened, None, None
        if idle and spare is not None:
            close_backend(spare)
