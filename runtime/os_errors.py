"""The operating system's errors as sentences."""

from __future__ import annotations

import errno
import os

__all__ = ["explain"]


def explain(error: OSError) -> str:
    """An operating system's error as a sentence that says what to do.

    Args:
        error: an error from opening, reading or writing a file or a socket.
    """
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}no space is left; free some or write elsewhere. Nothing half-written was kept"
    if error.errno == errno.ENOENT:
        return f"{where}no such file or folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}permission denied by the file system ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return f"{where}the address is already in use; stop the process that listens there or choose another port"
    return f"{where}{error.strerror or error}"
