"""Checks of storage: the cache folder, and the folder of temporary files."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .finding import Finding, advice, error, fine, warning
from .subject import Subject

__all__ = ["check_cache", "check_temporary"]

#: Bytes that the cache needs on a machine with GPUs, whose engines are large.
ROOM: Final = 1 << 30


def check_cache(subject: Subject) -> Iterator[Finding]:
    """Check that the cache can be written by the server's user alone, and has room."""
    folder = subject.cache
    existing = _existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield warning(
            f"{folder} cannot be written, so every start tries tokenizers and measures providers again",
            "set FLETCHER_CACHE to a folder of the server's user that outlives restarts",
        )
        return
    mode = existing.stat().st_mode
    # A container has no other users, and Kubernetes lets everybody in it write an emptyDir.
    if folder.exists() and mode & stat.S_IWOTH and not subject.in_container:
        yield error(
            f"every user of the machine may write {folder}, whose engines the server loads", f"chmod 700 {folder}"
        )
        return
    free = shutil.disk_usage(existing).free
    if free < ROOM:
        yield warning(
            f"{free >> 20:,} MiB are free for {folder}", "free some space: fletcher-serve retention shows what is kept"
        )
    else:
        yield fine(f"{folder} can be written, and {free >> 20:,} MiB are free")


def check_temporary(subject: Subject) -> Iterator[Finding]:
    """Check the folder of temporary files, where the sockets between processes are."""
    folder = Path(subject.environment.get("TMPDIR") or tempfile.gettempdir())
    if os.access(folder, os.W_OK | os.X_OK):
        yield fine(f"{folder} can be written")
    elif subject.options.front_count:
        yield error(f"{folder} cannot be written, and fronts need it", "mount a tmpfs at /tmp, or set TMPDIR")
    else:
        yield advice(f"{folder} cannot be written", "mount a tmpfs at /tmp, or set TMPDIR")


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder
