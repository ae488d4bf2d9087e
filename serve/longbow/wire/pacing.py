"""How much goes to Longbow at a time and how soon again after a failure. Knows no network."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Final

__all__ = ["Backoff", "BatchSizer"]

#: Longbow likes batches of 1,000 to 10,000 rows; below, only where it is too slow for them.
MIN_ROWS: Final = 64
FIRST_ROWS: Final = 1024
MAX_ROWS: Final = 10_000

#: Bytes of a batch: enough to make a call's cost vanish (384 floats are 1.5 KB), few enough that several fit under way.
MAX_BYTES: Final = 4 * 2**20

#: Seconds between a batch's last byte and its acknowledgement that are worth growing for, and worth shrinking for.
QUICK: Final = 0.1
SLOW: Final = 1.0


class BatchSizer:
    """Rows of the next batch, from how soon the last ones were acknowledged. Safe to use from several threads."""

    def __init__(self, rows: int = FIRST_ROWS) -> None:
        self._rows = float(rows)
        self._lock = threading.Lock()

    def rows(self, row_bytes: float) -> int:
        """Rows that the next batch may have.

        Args:
            row_bytes: of one row.
        """
        return max(1, min(int(self._rows), int(MAX_BYTES / max(row_bytes, 1.0))))

    def acknowledged(self, rows: int, seconds: float) -> None:
        """Learns from one batch."""
        with self._lock:
            if seconds > SLOW:
                self._rows = max(MIN_ROWS, min(self._rows, rows) / 2)
            elif seconds < QUICK and rows >= self._rows / 2:
                self._rows = min(MAX_ROWS, self._rows * 1.25)


@dataclass(slots=True)
class Backoff:
    """Exponential, with full jitter: each wait is anything up to a bound that doubles, so that many clients spread out
    (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).

    Attributes:
        first: bound of the first wait, seconds.
        longest: bound that it ends at.
        failures: in a row so far.
    """

    first: float = 0.1
    longest: float = 10.0
    failures: int = 0

    def fail(self) -> float:
        """Counts a failure; seconds to wait now."""
        bound = min(self.longest, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return random.uniform(bound / 10, bound)

    def succeed(self) -> None:
        """Begins anew."""
        self.failures = 0
