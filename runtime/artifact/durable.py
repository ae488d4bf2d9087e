"""Durable changes of folders: what a power cut must not undo, and the exchange of two folders in one step."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["exchange", "make_durable", "sync"]

#: Flags of Linux's `renameat2` and of macOS' `renamex_np` that exchange two names.
RENAME_EXCHANGE: Final = 2
RENAME_SWAP: Final = 2

#: Linux's mark for a path that is relative to the working folder.
AT_FDCWD: Final = -100


def sync(path: Path) -> None:
    """Write the data of a file, or the names in a folder, to the disk.

    Raises:
        OSError: the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(folder: Path) -> None:
    """Write all files of a folder and their names to the disk.

    Raises:
        OSError: the disk failed.
    """
    for file in folder.iterdir():
        sync(file)
    sync(folder)


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; return False, and change nothing, where this is not possible."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(library, "renameat2"):  # glibc has it from 2.28, musl from 1.2.6
        result = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        result = library.renamex_np(names[0], names[1], RENAME_SWAP)
    else:
        return False
    return bool(result == 0)
