"""`Reference`: texts with their vectors, computed in this process, and the record of what the server answered."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encoder

__all__ = ["Ledger", "Outcome", "Reference"]

#: Largest difference of a vector from its reference: float32 rounds differently in other batches.
TOLERANCE = 1e-5

#: Smallest distance between the vectors of two texts, so that an answer to another text is recognized.
DISTANCE = 1e-3

Vectors = NDArray[np.float32]


class Reference:
    """Texts that have clearly different vectors.

    Attributes:
        texts: the texts.
        vectors: their vectors, (texts, dimension).
    """

    def __init__(self, artifact: Path, count: int = 1024) -> None:
        """Compute the vectors with the encoder itself."""
        chance = random.Random(16)
        letters = "abcdefghijklmnopqrstuvwxyz0123456789 "
        texts = sorted({"".join(chance.choices(letters, k=chance.randint(4, 60))) for _ in range(2 * count)})
        with Encoder.load(artifact, provider="mlas") as encoder:
            vectors = encoder.embed(texts).vectors
        kept: list[int] = []
        for place, vector in enumerate(vectors):
            if not kept or float(np.abs(vectors[kept] - vector).max(axis=1).min()) > DISTANCE:
                kept.append(place)
            if len(kept) == count:
                break
        assert len(kept) == count, f"only {len(kept)} texts have different vectors"
        self.texts = [texts[place] for place in kept]
        self.vectors: Vectors = vectors[kept]

    def choose(self, chance: random.Random, count: int) -> list[int]:
        """Return numbers of texts."""
        return chance.choices(range(len(self.texts)), k=count)

    def difference(self, numbers: Sequence[int], vectors: Any) -> str | None:
        """Return what is wrong with an answer, or None."""
        found = np.asarray(vectors, np.float32)
        expected = self.vectors[list(numbers)]
        if found.shape != expected.shape:
            return f"the shape is {found.shape} instead of {expected.shape}"
        worst = float(np.abs(found - expected).max())
        return None if worst <= TOLERANCE else f"a vector is wrong by {worst}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one request.

    Attributes:
        kind: kind of the client.
        began, ended: times of the clock.
        result: `ok`, `overloaded`, `unavailable` (503) or `broken` (the connection ended).
        detail: text of the error.
    """

    kind: str
    began: float
    ended: float
    result: str
    detail: str = ""


@dataclass(slots=True)
class Ledger:
    """All outcomes, the times at which a process was disturbed, and what must never happen. Any thread may use it.

    Attributes:
        outcomes: ends of requests.
        windows: begin and end of each disturbance.
        wrong: wrong vectors, statuses and lines.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    windows: list[tuple[float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, began: float, result: str, detail: str = "") -> None:
        """Note the end of a request."""
        with self.lock:
            self.outcomes.append(Outcome(kind, began, time.monotonic(), result, detail))

    def fail(self, text: str) -> None:
        """Note something that must never happen."""
        with self.lock:
            self.wrong.append(text)

    @contextmanager
    def window(self) -> Iterator[None]:
        """Note that a process is disturbed within the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            with self.lock:
                self.windows.append((began, time.monotonic()))

    def unexplained(self) -> list[Outcome]:
        """Return requests that failed although no process was disturbed while they were open."""
        return [
            outcome
            for outcome in self.outcomes
            if outcome.result in ("unavailable", "broken")
            and not any(begin <= outcome.ended and outcome.began <= end for begin, end in self.windows)
        ]

    def counts(self) -> Counter[str]:
        """Return the number of outcomes by kind and result."""
        return Counter(f"{outcome.kind} {outcome.result}" for outcome in self.outcomes)
