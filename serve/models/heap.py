"""Heap of the C library: limit its arenas, and return freed memory to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from typing import Any

__all__ = ["few_arenas", "give_memory_back"]

#: Largest number of arenas. glibc makes an arena for almost every thread, up to eight per core. An arena does not return the
#: memory below its newest block. Five minutes of mixed requests, with MiniLM replaced 37 times, on two cores: 379 to 601 MB
#: resident by default, and mostly 300 to 335 MB with two arenas (benchmarks/serve/soak.py). Batches do not use these arenas,
#: because ONNX Runtime has a separate one.
ARENAS = 2

#: glibc's `M_ARENA_MAX` (malloc.h), and the environment variable that sets it.
M_ARENA_MAX, VARIABLE = -8, "MALLOC_ARENA_MAX"


def few_arenas() -> None:
    """Limit the process to `ARENAS` arenas. Call it before threads start.

    The function does nothing without glibc, or if `MALLOC_ARENA_MAX` is set.
    """
    mallopt = _function("mallopt")
    if mallopt is not None and VARIABLE not in os.environ:
        mallopt(M_ARENA_MAX, ARENAS)


def give_memory_back() -> None:
    """Return the memory of a closed session to the system. glibc does not always do this itself."""
    gc.collect()
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any | None:
    """Return a function of the C library, or None if the library does not have it, such as musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
