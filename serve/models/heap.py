"""The C library's heap: a limit of its arenas, and the return of freed memory to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from typing import Any

__all__ = ["few_arenas", "give_memory_back"]

#: glibc makes an arena for almost every thread, up to eight a core, and none gives back what lies below its newest block.
#: Five minutes of mixed requests and 37 exchanges of MiniLM on two cores: 379 to 601 MB resident, with two arenas mostly
#: 300 to 335 (benchmarks/serve/soak.py). Batches do not ask it for memory: ONNX Runtime has an arena of its own.
ARENAS = 2

#: glibc's `M_ARENA_MAX` (malloc.h), and the variable that sets it from outside.
M_ARENA_MAX, VARIABLE = -8, "MALLOC_ARENA_MAX"


def few_arenas() -> None:
    """Limit the process to `ARENAS` arenas; call it before there are threads.

    It does nothing without glibc, or if `MALLOC_ARENA_MAX` is set.
    """
    mallopt = _function("mallopt")
    if mallopt is not None and VARIABLE not in os.environ:
        mallopt(M_ARENA_MAX, ARENAS)


def give_memory_back() -> None:
    """Return the memory of a closed session to the system: glibc keeps freed memory for itself otherwise."""
    gc.collect()
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any | None:
    """Return a function of the C library, or None: musl has neither of the two."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
