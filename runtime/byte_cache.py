"""A cache bounded in bytes that forgets what was not asked for the longest. It knows nothing of what it holds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Safe to use from several threads.

    Attributes:
        max_bytes: what all values together may have; 0 keeps nothing.
        bytes: what they have now.
        hits: how often a key was found.
        misses: how often not.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, or None; asking for it keeps it."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keeps a value of so many bytes; one that is larger than the whole cache is not kept."""
        if size > self.max_bytes:
            return
        with self._lock:
            before = self._entries.pop(key, None)
            self._entries[key] = (value, size)
            self.bytes += size - (before[1] if before else 0)
            while self.bytes > self.max_bytes:
                self.bytes -= self._entries.popitem(last=False)[1][1]
