"""`TimedEncoder`: encoder that takes a fixed time for each token, and whose vectors can be calculated by hand."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings

from ..fake_encoder import DIMENSION, FakeEncoder, expected
from .floods import Reference

__all__ = ["TimedEncoder", "reference"]


class TimedEncoder(FakeEncoder):
    """A `Backend` with the vectors of `FakeEncoder`, which it computes with numpy.

    Attributes:
        seconds: seconds of each batch that was computed.
    """

    def __init__(self, *, token_budget: int, seconds_per_batch: float, workers: int = 1) -> None:
        """Make the encoder.

        Args:
            token_budget: tokens of a full batch.
            seconds_per_batch: seconds of a full batch.
            workers: number of batches at the same time.
        """
        super().__init__(workers=workers, token_budget=token_budget)
        self.seconds: list[float] = []
        self._seconds_per_token = seconds_per_batch / token_budget

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        started = time.perf_counter()
        self.gate.wait()
        time.sleep(batch.num_tokens * self._seconds_per_token)
        places = np.arange(batch.num_tokens) - np.repeat(batch.offsets[:-1], batch.lengths) + 1
        powers = batch.ids.astype(np.int64)[:, None] * places[:, None] ** np.arange(DIMENSION)
        vectors: NDArray[np.float32] = (np.add.reduceat(powers, batch.offsets[:-1]) % 1009).astype(np.float32)
        self.seconds.append(time.perf_counter() - started)
        return vectors


def reference(count: int) -> Reference:
    """Return different texts of 6 to 12 characters with the vectors that `fake_encoder.expected` calculates."""
    texts = [f"{number:05}{'x' * (1 + number % 7)}" for number in range(count)]
    return Reference(texts, np.stack([expected(text) for text in texts]))
