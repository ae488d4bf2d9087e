"""Explanations of the operating system's errors."""

from __future__ import annotations

import errno
import os

__all__ = ["explain"]


def explain(error: OSError) -> str:
    """Return a message that names the file, the error and, for some errors, the remedy.

    Args:
        error: an error from opening, reading or writing a file or a socket.
    """
    prefix = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{prefix}no space is left; free some or write elsewhere. No incomplete file was kept"
    if error.errno == errno.ENOENT:
        return f"{prefix}no such file or folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{prefix}permission denied by the file system ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return f"{prefix}the address is already in use; stop the process that listens there or choose another port"
    return f"{prefix}{error.strerror or error}"
