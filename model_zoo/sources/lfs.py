"""Pointers of Git LFS: small text files that stand for a file that was not downloaded."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_pointer", "pointer_message"]

#: First bytes of a pointer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
_POINTER = b"version https://git-lfs.github.com/spec/"


def is_pointer(file: Path) -> bool:
    """Return whether a file is a pointer; a file that cannot be read is none."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def pointer_message(file: Path) -> str:
    """Return the message for a pointer."""
    return (
        f"{file} is a pointer of Git LFS, not the file itself: run `git lfs pull` in {file.parent}, or download the "
        "checkpoint again"
    )
