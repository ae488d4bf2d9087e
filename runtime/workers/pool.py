"""`Workers`: threads that compute any number of rows in batches on a session. Results are in the order of the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.manifest import TensorInfo
from ..artifact.outputs import value_rows
from ..batch import Batch
from ..errors import NotFiniteError, ProviderError
from ..memory.budget import MemoryBudget
from ..session.session import Session
from .planning import plan_batches

__all__ = ["Computation", "Workers"]

#: Exponent bits of a float16. All of them are set only in NaN and infinity.
HALF_EXPONENT = np.uint16(0x7C00)


@dataclass(frozen=True, slots=True)
class Computation:
    """Batches that workers are computing.

    Attributes:
        values: array that receives the results.
        futures: one future per batch.
    """

    values: NDArray[np.float32]
    futures: Sequence[Future[None]]

    def result(self) -> NDArray[np.float32]:
        """Wait for every batch and return the values. After an error, batches that have not begun are dropped.

        Raises:
            ProviderError: as in `Workers.run`.
        """
        try:
            for future in self.futures:
                future.result()
        finally:
            self.cancel()
        return self.values

    def cancel(self) -> None:
        """Drop the batches that have not begun."""
        for future in self.futures:
            future.cancel()


class Workers:
    """Threads that compute batches on one session. Safe to use from several threads at once.

    Attributes:
        session: session that computes the batches.
        alone: session for the only batch of a call while no other batch is being computed; None if it is `session`.
        count: number of threads.
        token_budget: tokens that a batch should hold.
    """

    def __init__(
        self,
        session: Session,
        outputs: Sequence[TensorInfo],
        *,
        name: str,
        count: int,
        token_budget: int,
        budget: MemoryBudget | None = None,
        alone: Session | None = None,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        """Start the threads.

        Args:
            session: session that computes the batches; it is closed with the workers.
            outputs: outputs of the graph; a run without an output name computes the first one.
            name: name of the model, for messages.
            count: number of threads.
            token_budget: tokens that a batch should hold.
            budget: memory that batches may need; None means that it is not limited.
            alone: session with more threads for the only batch of a call while no other batch is being computed; it is closed
                with the workers. None uses `session` for all batches.
            initializer: function that each thread calls before its first batch.
        """
        self.session = session
        self.count = count
        self.token_budget = token_budget
        self._name = name
        self._widths = {info.name: int(info.shape[1]) if len(info.shape) > 1 else 1 for info in outputs}
        self._dtypes = {info.name: np.dtype(info.dtype) for info in outputs}
        self._first = outputs[0].name
        self._budget = budget
        self.alone = alone
        self._running = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="fletcher-compute", initializer=initializer)
        self._closed = False

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch on the calling thread, without holding the GIL.

        A batch is computed in parts if `plan_batches` would split it: if it has more tokens than the budget, or if its
        lengths are so different that attention would be mostly padding.

        Args:
            batch: at least one row.
            output: name of the graph's output; None is the first.

        Returns:
            Values, float32, in the rows that `value_rows` gives for the output: most have one per text or one per token.

        Raises:
            NotFiniteError: the session returned NaN or infinity for some rows.
            ProviderError: the session failed, or was closed.
        """
        if len(batch) == 1 or len(parts := self._plan(batch)) == 1:
            return self._run_one(batch, output, self.alone)
        values = self._empty(batch, output)
        bad: dict[int, NotFiniteError] = {}
        for rows in parts:
            try:
                values[self._places(batch, rows, output)] = self._run_one(batch.select(rows), output, self.alone)
            except NotFiniteError as error:  # the other parts may have such rows too
                bad.update((int(rows[row]), error) for row in error.rows)
        if bad:
            raise NotFiniteError(sorted(bad), str(next(iter(bad.values()))))
        return values

    def compute(self, encodings: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute any number of rows on all workers. Values and errors are those of `run`."""
        batches = self._plan(encodings, self.session.devices)
        if len(batches) == 1:  # on the calling thread, which saves the time to wake another one
            return self._run_one(encodings, output, self.alone)
        return self._start(encodings, batches, output).result()

    def start(
        self, encodings: Batch, output: str | None = None, into: NDArray[Any] | None = None, *, more: bool = False
    ) -> Computation:
        """Queue rows for the workers and return without waiting.

        Args:
            encodings: any number of rows.
            output: name of the graph's output; None is the first.
            into: array that receives the results, of the shape and type of `room`; None makes a new one.
            more: whether more rows follow, so that the devices need not finish these together.

        Raises:
            ProviderError: the workers were closed.
        """
        return self._start(encodings, self._plan(encodings, 1 if more else self.session.devices), output, into)

    def room(self, rows: int, output: str | None = None) -> NDArray[Any]:
        """Return an uninitialized array for results.

        Args:
            rows: number of rows.
            output: name of the graph's output; None is the first.
        """
        name = output or self._first
        # Several outputs of one run are one column (`artifact/outputs.py`).
        return np.empty((rows, self._widths.get(name, 1)), self._dtypes.get(name, np.dtype(np.float32)))

    def by_session(self, encodings: Batch, output: str | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield the values of the same rows from each session, for checks. Values and errors are those of `compute`."""
        yield self.start(encodings, output).result()
        if self.alone is not None:
            values = self._empty(encodings, output)
            for rows in self._plan(encodings):
                computed = self._run_on(self.alone, encodings.select(rows), output)
                values[self._places(encodings, rows, output)] = computed
            yield values

    def close(self) -> None:
        """Wait for the batches that are being computed, and release the memory."""
        self._pool.shutdown()
        self._closed = True
        self.session.close()
        if self.alone is not None:
            self.alone.close()

    def _start(
        self,
        encodings: Batch,
        batches: Sequence[NDArray[np.int64]],
        output: str | None,
        into: NDArray[Any] | None = None,
    ) -> Computation:
        values = self._empty(encodings, output) if into is None else into

        def work(rows: NDArray[np.int64]) -> None:
            computed = self._run_one(encodings.select(rows), output, None)
            values[self._places(encodings, rows, output)] = computed

        try:
            return Computation(values, [self._pool.submit(work, rows) for rows in batches])
        except RuntimeError as error:  # the pool was shut down
            raise self._is_closed() from error

    def _plan(self, encodings: Batch, finishing: int = 1) -> list[NDArray[np.int64]]:
        shape, limit = (None, None) if self._budget is None else (self._budget.shape, self._budget.batch)
        return plan_batches(encodings.lengths, self.token_budget, shape, limit, finishing=finishing)

    def _run_one(self, batch: Batch, output: str | None, alone: Session | None) -> NDArray[np.float32]:
        """Compute one batch, on `alone` if that is not None and no other batch is being computed, else on `session`."""
        with self._lock:
            self._running += 1
            first = self._running == 1
        try:
            return self._run_on(alone if first and alone is not None else self.session, batch, output)
        finally:
            with self._lock:
                self._running -= 1

    def _run_on(self, session: Session, batch: Batch, output: str | None) -> NDArray[np.float32]:
        if self._closed:
            raise self._is_closed()
        if self._budget is None:
            values = session.run(batch, output)
        else:
            with self._budget.gate.hold(self._budget.shape.predict(batch.lengths)):
                values = session.run(batch, output)
        finite = _are_halves_finite(values) if values.dtype == np.float16 else np.isfinite(values).all()
        if not finite:
            rows = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            if (shape := value_rows(output or self._first, self._widths)) is not None:
                rows = shape.texts(batch, rows)
            raise NotFiniteError(
                rows.tolist(),
                f"{self._name} on {session.provider} gave NaN or infinity for row {rows[0]} of a batch of "
                f"{len(batch)}: the vectors are not used. Verify the artifact, or choose another variant",
            )
        return values

    def _is_closed(self) -> ProviderError:
        return ProviderError(f"the encoder of {self._name} was closed: load the artifact again")

    def _empty(self, encodings: Batch, output: str | None) -> NDArray[np.float32]:
        """Return an uninitialized array for the results of all rows."""
        rows = value_rows(output or self._first, self._widths)
        return self.room(len(encodings) if rows is None else rows.count(encodings), output)

    def _places(self, encodings: Batch, rows: NDArray[np.int64], output: str | None) -> NDArray[np.int64]:
        """Return the indices of the selected rows' results in the array of all results."""
        each = value_rows(output or self._first, self._widths)
        return rows if each is None else each.places(encodings, rows)


def _are_halves_finite(values: NDArray[Any]) -> bool:
    """Return whether all float16 values are finite. It tests the exponent bits, because `np.isfinite` is slow on float16."""
    return not values.size or bool((values.view(np.uint16) & HALF_EXPONENT).max() < HALF_EXPONENT)
