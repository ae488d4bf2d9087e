"""`warning_lines`: log records of Fletcher as lines for people, while a command runs that writes no log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["warning_lines"]


class _Lines(logging.Handler):
    """Handler that prints records as lines to stderr: `warning: provider skipped: provider cuda, reason no driver`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record with the fields in `extra={"fields": {...}}`."""
        fields = ", ".join(f"{name} {value}" for name, value in getattr(record, "fields", {}).items())
        typer.echo(": ".join(filter(None, (record.levelname.lower(), record.getMessage(), fields))), err=True)


@contextmanager
def warning_lines() -> Iterator[None]:
    """Print Fletcher's warnings and errors, whose fields Python alone would leave out. A server has its log instead."""
    logger, lines = logging.getLogger("fletcher"), _Lines(logging.WARNING)
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)
