"""Opening of an artifact's files: only regular ones. A pipe would make a load wait, and a device would never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import ArtifactError

__all__ = ["open_regular", "read_regular"]


def open_regular(file: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        ArtifactError: the file is missing, cannot be read, or is not a regular file.
    """
    descriptor = -1
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        if descriptor >= 0:
            os.close(descriptor)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ArtifactError(f"{file} cannot be read: {reason}. Convert the checkpoint again") from error
    if not regular:
        os.close(descriptor)
        raise ArtifactError(f"{file} is not a regular file: convert the checkpoint again")
    return os.fdopen(descriptor, "rb")


def read_regular(file: Path, most: int) -> bytes:
    """Return the content of a file, or its first bytes.

    Args:
        file: the file.
        most: largest number of bytes.

    Raises:
        ArtifactError: the file is missing, cannot be read, or is not a regular file.
    """
    with open_regular(file) as stream:
        try:
            return stream.read(most)
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read: {error.strerror}. Convert the checkpoint again") from error
