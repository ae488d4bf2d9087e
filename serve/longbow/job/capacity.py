"""Load of Longbow. The progress line shows it, and a job pauses before Longbow blocks without an error.

The use of memory comes from Longbow's Prometheus port, the number of batches that wait for the index from `check_readiness`.
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fletcher.runtime.errors import InputError, ServiceError

__all__ = ["Capacity", "CapacityWatch", "read_metrics"]

#: Share of the memory above which to pause. Longbow blocks writers above 95 % of its heap, or 90 % of the memory for rows.
HOLD_ABOVE: Final = 0.85

#: Largest number of acknowledged batches that wait for the index: enough to keep Longbow busy. Its queue holds 60,000, and
#: it drops more. No call shows the progress of the queue.
MOST_TO_INDEX: Final = 32

#: Seconds between two readings.
INTERVAL: Final = 2.0

_sample = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+([0-9eE+.\-]+|NaN|[+-]Inf)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Load of Longbow according to its metrics.

    Attributes:
        memory_share: used share of the memory limit, 0 to 1, or None if the metric is missing.
        lag_rows: number of rows that are accepted and not yet stored.
        index_queue: number of batches that wait for the index.
    """

    memory_share: float | None = None
    lag_rows: int | None = None
    index_queue: int | None = None


def read_metrics(page: str) -> Capacity:
    """Parse Prometheus' text format. The values of a metric with labels are summed."""
    sums: dict[str, float] = {}
    for name, value in _sample.findall(page):
        sums[name] = sums.get(name, 0.0) + float(value)

    def integer(name: str) -> int | None:
        return int(sums[name]) if name in sums else None

    shares = []
    if "longbow_gc_tuner_heap_utilization" in sums:
        shares.append(sums["longbow_gc_tuner_heap_utilization"])
    if sums.get("longbow_memory_limit_bytes"):  # 0 in Longbow of January 2026
        shares.append(sums.get("longbow_memory_current_bytes", 0.0) / sums["longbow_memory_limit_bytes"])
    return Capacity(
        max(shares) if shares else None,
        integer("longbow_ingestion_lag_count"),
        integer("longbow_index_queue_depth"),
    )


class CapacityWatch:
    """Thread that reads the load regularly. A context manager.

    Attributes:
        last: the last reading; None before the first one and after one that failed.
        highest_share: highest used share of the memory limit, over all readings.
        to_index: number of batches that wait for the index, or None if Longbow did not answer.
        problem: reason why the page could not be read, or None.
    """

    def __init__(self, url: str | None, to_index: Callable[[], int] | None = None) -> None:
        """Create the watch. Entering its context starts the thread.

        Args:
            url: URL of the metrics, such as http://127.0.0.1:9090/metrics; None does not read metrics.
            to_index: function that asks Longbow for the number of batches that wait for the index; None does not ask.

        Raises:
            InputError: the URL is not an HTTP URL.
        """
        if url is not None and not url.startswith(("http://", "https://")):
            raise InputError(f"the address of Longbow's metrics is {url!r}, and must be like http://HOST:9090/metrics")
        self._url = url
        self._ask = to_index
        self.to_index: int | None = None
        self.last: Capacity | None = None
        self.highest_share: float | None = None
        self.problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fletcher-longbow-capacity", daemon=True)

    def look(self) -> None:
        """Read the metrics once."""
        if self._url is None:
            return
        try:
            # Without this header, the answer may be protocol buffers.
            question = urllib.request.Request(self._url, headers={"accept": "text/plain"})
            with urllib.request.urlopen(question, timeout=5.0) as answer:
                self.last = read_metrics(answer.read().decode())
            self.problem = None
        except (urllib.error.URLError, OSError, ValueError) as error:
            self.last = None
            self.problem = f"{self._url} does not give metrics: {error}"
            return
        share = self.last.memory_share
        if share is not None:
            self.highest_share = max(share, self.highest_share or 0.0)

    def ask(self) -> None:
        """Ask Longbow once for the number of batches that wait for the index."""
        if self._ask is None:
            return
        try:
            self.to_index = self._ask()
        except ServiceError:  # the streams report that Longbow cannot be reached
            self.to_index = None

    def hold(self) -> str:
        """Return the reason why a sender must wait, or an empty text."""
        share = self.last.memory_share if self.last is not None else None
        if share is not None and share > HOLD_ABOVE:
            return f"its memory is {share:.0%} full, and it blocks at 95 %: raise LONGBOW_MAX_MEMORY"
        if self.to_index is not None and self.to_index > MOST_TO_INDEX:
            return f"{self.to_index:,} batches wait for its index"
        return ""

    def status(self) -> str:
        """Return a note for the progress line, or an empty text."""
        parts = []
        if self.to_index:
            parts.append(f"{self.to_index:,} batches to index")
        if self.last is None:
            return ", ".join(parts)
        if self.last.memory_share is not None:
            parts.append(f"Longbow's memory {self.last.memory_share:.0%} full")
        if self.last.lag_rows:
            parts.append(f"{self.last.lag_rows:,} rows behind")
        if self.last.index_queue and not self.to_index:
            parts.append(f"{self.last.index_queue:,} batches to index")
        return ", ".join(parts)

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.look()
            self.ask()

    def __enter__(self) -> CapacityWatch:
        if self._url is not None or self._ask is not None:
            self.look()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
