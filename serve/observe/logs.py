"""Structured logs: one JSON object on each line, with the request's id. A log line never has a text of a request."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, TextIO

import msgspec

from .record import RequestRecord

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["LEVELS", "install", "log_request", "trace_fields"]

#: Values of `--log-level`.
LEVELS = ("debug", "info", "warning", "error")

#: Logger and message for the requests of HTTP and of Flight.
_requests = {
    "http": (logging.getLogger("fletcher.serve.http"), "request"),
    "flight": (logging.getLogger("fletcher.serve.flight"), "call"),
}


class JsonFormatter(logging.Formatter):
    """Formatter of log records as lines of JSON. The fields in `extra={"fields": {...}}` become keys of the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def install(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send Fletcher's logs, and uvicorn's warnings, to a stream as JSON lines.

    Args:
        level: the least severe level that is written. Successful requests have the level DEBUG.
        stream: destination of the lines. Default: standard error.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter())
    for name, threshold in (("fletcher", level), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(threshold)
        logger.propagate = False


def trace_fields(trace: Trace | None) -> dict[str, object]:
    """Return the log fields that identify the trace of a request; none if it is not traced."""
    return {} if trace is None else {"trace_id": trace.id}


def log_request(record: RequestRecord) -> None:
    """Write a finished request to the log, at the level DEBUG."""
    logger, message = _requests[record.door]
    if logger.isEnabledFor(logging.DEBUG):
        fields = {
            "request_id": record.id,
            "route": record.route,
            "client": record.client,
            "peer": record.peer,
            "status": record.status,
            "milliseconds": round(record.stages.total * 1000, 3),
        }
        logger.debug(message, extra={"fields": fields | trace_fields(record.trace)})
