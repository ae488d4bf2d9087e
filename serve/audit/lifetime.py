"""`begin_log` and `end_log`: the audit log from the start of a server to its stop, which have lines of their own."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

from .entry import body_of, of_event
from .log_file import LogFile

__all__ = ["begin_log", "end_log"]

logger = logging.getLogger("fletcher.serve.audit")


def begin_log(path: Path, most_bytes: int, version: str) -> LogFile:
    """Open an audit log, and write a line about the start of the server.

    Args:
        path: the file.
        most_bytes: size from which a new file is begun.
        version: version of the server.

    Raises:
        InputError: the file cannot be used.
    """
    log = LogFile(path, most_bytes)
    try:
        log.append([body_of(of_event("start", time.time(), {"subject": version}))])
    except OSError as error:
        log.close()
        raise InputError(f"--audit {path} cannot be written: {explain(error)}") from error
    return log


def end_log(log: LogFile) -> None:
    """Write a line about the stop of the server, and close the log."""
    try:
        log.append([body_of(of_event("stop", time.time(), {}))])
    except OSError as error:
        logger.error("the audit log lacks its last lines", extra={"fields": {"reason": explain(error)}})
    log.close()
