"""Durable changes of files and folders: a crash leaves the old state or the new one, and a power cut does not undo it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

__all__ = ["exchange", "install", "make_durable", "new_file", "new_folder", "sync"]

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
        if file.is_dir():
            make_durable(file)
        else:
            sync(file)
    sync(folder)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a stream to a temporary file beside `path`. It gets that name when the block ends without an error.

    Args:
        path: the file. A missing folder is created, and an older file is replaced as a whole.

    Raises:
        OSError: it cannot be written. The older file is as before, and the temporary one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # the error of the write is the reason
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`. It replaces that folder when the block ends without an error.

    Raises:
        OSError: it cannot be written. The older folder is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        install(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def install(new: Path, path: Path) -> None:
    """Rename a folder to `path`, so that a crash at any moment leaves the old folder or the new one under that name.

    What was there has the name of `new` afterwards, if the system can exchange names. Otherwise it is moved away first, and a
    crash between the two steps leaves it in a folder beside `path`.

    Raises:
        OSError: the disk failed.
    """
    make_durable(new)
    if not path.exists():
        new.rename(path)
    elif not exchange(path, new):
        _install_in_two_steps(new, path)
    sync(path.parent)


def _install_in_two_steps(new: Path, path: Path) -> None:
    """Move the old folder away first: a folder that is not empty cannot be overwritten."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        path.rename(aside / path.name)
        try:
            new.rename(path)
        except BaseException:
            (aside / path.name).rename(path)
            raise
        sync(path.parent)
    finally:
        # If `path` does not exist here, the only copy of the old folder is in `aside`.
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


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
