"""Inputs: local files, and URLs that pyarrow's filesystems open."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.fs as pafs

from fletcher.runtime.errors import InputError

__all__ = ["filesystem", "is_url", "open_input"]


def is_url(path: str) -> bool:
    """Return whether a path is a URL such as s3://bucket/key."""
    return "://" in path


def filesystem(url: str) -> tuple[Any, str]:
    """Return the `pyarrow.fs.FileSystem` of a URL, and the path on it.

    Raises:
        InputError: the URL is not valid, or pyarrow does not support its scheme.
    """
    try:
        return cast("tuple[Any, str]", pafs.FileSystem.from_uri(url))
    except (pa.ArrowException, OSError) as error:
        # Where a library is missing, pyarrow adds a line for each place where it looked.
        raise InputError(f"{url} cannot be opened: {str(error).partition(chr(10))[0]}") from error


@contextmanager
def open_input(path: str) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes. The file is seekable.

    Raises:
        InputError: the URL cannot be opened.
        OSError: the file cannot be read.
    """
    if not is_url(path):
        with Path(path).open("rb") as file:
            yield file
        return
    store, name = filesystem(path)
    try:
        opened = store.open_input_file(name)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be opened: {error}") from error
    with io.BufferedReader(opened, 2**20) as buffered:
        yield cast("IO[bytes]", buffered)
