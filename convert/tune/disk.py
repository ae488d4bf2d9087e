"""`is_full`: whether an error of any library says that there is no space for a file."""

from __future__ import annotations

import errno

__all__ = ["is_full"]

#: Parts of messages of libraries that write files, when there is no space.
FULL = ("no space left", "disk quota", "file too large", "pytorchstreamwriter failed", "unexpected pos")


def is_full(error: Exception) -> bool:
    """Return whether there is no space, from the number or the message of an error."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    full = isinstance(error, OSError) and error.errno in codes
    return full or any(part in str(error).lower() for part in FULL)
