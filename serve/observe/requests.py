"""`Requests`: the one wrapper around every request of HTTP and Flight. It makes the record and hands it to its consumers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .logs import log_request
from .metrics import Metrics
from .record import Consumer, RecordDraft

if TYPE_CHECKING:
    from .tracing import Tracing

__all__ = ["Requests"]

logger = logging.getLogger("fletcher.serve.observe")


class Requests:
    """Wraps every request of a door: `wrap` is the place for whatever is to happen around each request.

    Safe to use from any thread.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None, consumers: Sequence[Consumer] = ()) -> None:
        """
        Args:
            metrics: counts every request.
            tracing: ends the span of every request that has one; None if nothing is traced.
            consumers: receive every record after metrics, log and traces.
        """
        spans = () if tracing is None else (tracing.end,)
        self._consumers: tuple[Consumer, ...] = (metrics.count_request, log_request, *spans, *consumers)

    @contextmanager
    def wrap(self, draft: RecordDraft) -> Iterator[None]:
        """Make the request's record when the block ends, however it ends, and hand it to every consumer.

        A consumer that fails is logged; it changes neither the answer nor what other consumers receive.
        """
        try:
            yield
        finally:
            record = draft.finish()
            for consume in self._consumers:
                try:
                    consume(record)
                except Exception:  # a defect of the consumer's, after the request was answered
                    logger.exception("a record was not consumed", extra={"fields": {"request_id": record.id}})
