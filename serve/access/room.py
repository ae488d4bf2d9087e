"""`make_room`: bound of a table of what was worked out for keys and tokens, most of which are not seen again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["FEW", "MOST", "make_room"]

#: Number of entries up to which expired ones may stay, and the largest number.
FEW: Final = 256
MOST: Final = 16_384

K = TypeVar("K")
V = TypeVar("V")


def make_room(table: dict[K, V], end_of: Callable[[V], float]) -> int:
    """Remove entries that have expired, and all entries if too many have not.

    Another thread may use the table meanwhile.

    Args:
        table: the table.
        end_of: returns the time at which an entry expires, in seconds since 1970.

    Returns:
        The number of entries at which to call it again: twice those that stay, so that an entry costs the same on average.
    """
    now = time.time()
    for name, entry in [*table.items()]:
        if end_of(entry) <= now:
            table.pop(name, None)
    if len(table) >= MOST:
        table.clear()
    return min(max(2 * len(table), FEW), MOST)
