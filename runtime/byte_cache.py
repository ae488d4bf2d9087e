"""`BoundedCache`: cache with a bound in bytes that removes the least recently used values first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Cache of any values whose sizes the caller states. Safe to use from several threads.

    Attributes:
        max_bytes: bound of the sizes of all values together; 0 caches nothing.
        bytes: sizes of all cached values together.
        hits: number of lookups that found the key.
        misses: number of lookups that did not find the key.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the value of a key and mark it as recently used, or return None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Cache a value of `size` bytes. A value that is larger than the whole cache is not cached."""
        if size > self.max_bytes:
            return
        with self._lock:
            replaced = self._entries.pop(key, None)
            self._entries[key] = (value, size)
            self.bytes += size - (replaced[1] if replaced else 0)
            while self.bytes > self.max_bytes:
                self.bytes -= self._entries.popitem(last=False)[1][1]
