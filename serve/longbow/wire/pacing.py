"""Batch size, and waits after failures, of the streams to Longbow."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Final

__all__ = ["Backoff", "BatchSizer"]

#: Limits of a batch, in rows. Longbow works best with 1,000 to 10,000; smaller batches are for a slow server.
MIN_ROWS: Final = 64
FIRST_ROWS: Final = 1024
MAX_ROWS: Final = 10_000

#: Largest size of a batch in bytes (384 floats are 1.5 KB): a larger one does not make calls cheaper, and several must
#: fit into the window of a stream.
MAX_BYTES: Final = 4 * 2**20

#: Seconds until the acknowledgment of a batch: below QUICK, batches grow; above SLOW, they shrink.
QUICK: Final = 0.1
SLOW: Final = 1.0


class BatchSizer:
    """Number of rows of the next batch, adapted to the time of acknowledgments. Safe to use from several threads."""

    def __init__(self, rows: int = FIRST_ROWS) -> None:
        self._rows = float(rows)
        self._lock = threading.Lock()

    def rows(self, row_bytes: float) -> int:
        """Return the largest number of rows of the next batch.

        Args:
            row_bytes: size of one row in bytes.
        """
        return max(1, min(int(self._rows), int(MAX_BYTES / max(row_bytes, 1.0))))

    def acknowledged(self, rows: int, seconds: float) -> None:
        """Adapt the batch size after an acknowledgment.

        Args:
            rows: number of rows of the batch.
            seconds: time until its acknowledgment.
        """
        with self._lock:
            if seconds > SLOW:
                self._rows = max(MIN_ROWS, min(self._rows, rows) / 2)
            elif seconds < QUICK and rows >= self._rows / 2:
                self._rows = min(MAX_ROWS, self._rows * 1.25)


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with full jitter: each wait is a random time up to a bound that doubles with each failure.

    The jitter spreads the requests of many clients (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).

    Attributes:
        first: bound of the first wait, in seconds.
        longest: largest bound, in seconds.
        failures: number of consecutive failures.
    """

    first: float = 0.1
    longest: float = 10.0
    failures: int = 0

    def fail(self) -> float:
        """Count a failure, and return the seconds to wait."""
        bound = min(self.longest, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return random.uniform(bound / 10, bound)

    def succeed(self) -> None:
        """Reset the count of failures."""
        self.failures = 0
