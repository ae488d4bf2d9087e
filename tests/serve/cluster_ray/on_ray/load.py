"""`Load`: clients of a deployment that ask all the time, and what they were answered."""

from __future__ import annotations

import threading
import time
from collections import Counter

import httpx

__all__ = ["Load"]


class Load:
    """Requests from several threads, and their statuses by time."""

    def __init__(self, url: str, threads: int = 4, texts: int = 1, headers: dict[str, str] | None = None) -> None:
        self.statuses: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._args = (url, [f"load {row}" for row in range(texts)], headers or {})
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        url, texts, headers = self._args
        with httpx.Client(timeout=60, headers=headers) as client:
            while not self._stop.is_set():
                try:
                    status = client.post(f"{url}/v1/embeddings", json={"input": texts, "model": "tiny"}).status_code
                except httpx.HTTPError:
                    status = 0
                self.statuses.append((time.monotonic(), status))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def counts(self) -> Counter[int]:
        return Counter(status for _, status in self.statuses)
