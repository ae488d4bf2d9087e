"""How full Longbow is and how far behind: to say so, and to wait before it blocks without a word.

The memory is told by its Prometheus port; how many batches wait for its index only `check_readiness` tells.
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

#: Longbow blocks writers above 95 % of its heap, or 90 % of what its rows may take: wait before that.
HOLD_ABOVE: Final = 0.85

#: Batches that may wait for Longbow's index, acknowledged as they are: enough that it is never idle. It would take 60,000,
#: and drop more, and while it works on them nothing tells how far it is.
MOST_TO_INDEX: Final = 32

#: Seconds between two looks.
INTERVAL: Final = 2.0

_sample = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+([0-9eE+.\-]+|NaN|[+-]Inf)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What Longbow's metrics say.

    Attributes:
        memory_share: of its limit, 0 to 1, or None where it does not say.
        lag_rows: accepted and not yet stored.
        index_queue: batches that wait for the index.
    """

    memory_share: float | None = None
    lag_rows: int | None = None
    index_queue: int | None = None


def read_metrics(page: str) -> Capacity:
    """Reads Prometheus' text format; of a metric with labels the sum."""
    sums: dict[str, float] = {}
    for name, value in _sample.findall(page):
        sums[name] = sums.get(name, 0.0) + float(value)

    def whole(name: str) -> int | None:
        return int(sums[name]) if name in sums else None

    shares = []
    if "longbow_gc_tuner_heap_utilization" in sums:
        shares.append(sums["longbow_gc_tuner_heap_utilization"])
    if sums.get("longbow_memory_limit_bytes"):  # there since January 2026, but 0
        shares.append(sums.get("longbow_memory_current_bytes", 0.0) / sums["longbow_memory_limit_bytes"])
    return Capacity(
        max(shares) if shares else None,
        whole("longbow_ingestion_lag_count"),
        whole("longbow_index_queue_depth"),
    )


class CapacityWatch:
    """Looks at the metrics' port now and then, on a thread of its own; a context manager.

    Attributes:
        last: what was seen last; None before the first look and after one that failed.
        highest_share: of the memory's limit, over all looks.
        to_index: batches that wait for the index; None where that is not known.
        problem: why the page could not be read, or None.
    """

    def __init__(self, url: str | None, to_index: Callable[[], int] | None = None) -> None:
        """
        Args:
            url: of the page, such as http://127.0.0.1:9090/metrics; None never looks at one.
            to_index: asks Longbow how many batches wait for its index; None never asks.

        Raises:
            InputError: it is no URL of HTTP.
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
        """Reads the page once."""
        if self._url is None:
            return
        try:
            # Without asking for text it may come as protocol buffers.
            question = urllib.request.Request(self._url, headers={"accept": "text/plain"})
            with urllib.request.urlopen(question, timeout=5.0) as answer:
                self.last = read_metrics(answer.read().decode())
            self.problem = None
        except (urllib.error.URLError, OSError, ValueError) as error:
            self.last = None
            self.problem = f"{self._url} gives no metrics: {error}"
            return
        share = self.last.memory_share
        if share is not None:
            self.highest_share = max(share, self.highest_share or 0.0)

    def ask(self) -> None:
        """Asks once how many batches wait for the index."""
        if self._ask is None:
            return
        try:
            self.to_index = self._ask()
        except ServiceError:  # the streams notice that it is away, and say so
            self.to_index = None

    def hold(self) -> str:
        """Why a sender should wait; empty where it need not."""
        share = self.last.memory_share if self.last is not None else None
        if share is not None and share > HOLD_ABOVE:
            return f"its memory is {share:.0%} full, and it blocks at 95 %: raise LONGBOW_MAX_MEMORY"
        if self.to_index is not None and self.to_index > MOST_TO_INDEX:
            return f"{self.to_index:,} batches wait for its index"
        return ""

    def told(self) -> str:
        """For a line of progress; empty where nothing is known."""
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
