"""Structured logs: one JSON object a line, with the request's id, never with a text."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, TextIO

import msgspec

if TYPE_CHECKING:
    from .tracing import Trace

__all__ = ["LEVELS", "install", "trace_fields"]

#: What `--log-level` takes.
LEVELS = ("debug", "info", "warning", "error")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON. What a caller passes as `extra={"fields": {...}}` becomes its own keys."""

    def format(self, record: logging.LogRecord) -> str:
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
    """Sends Fletcher's logs, and uvicorn's warnings, to a stream as JSON lines.

    Args:
        level: the least severe level that is written; successful requests are DEBUG.
        stream: where to; None is standard error.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter())
    for name, least in (("fletcher", level), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False


def trace_fields(trace: Trace | None) -> dict[str, object]:
    """What finds a request's trace from its log line."""
    return {} if trace is None else {"trace_id": trace.id}
