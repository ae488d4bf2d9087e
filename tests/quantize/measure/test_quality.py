"""Dependence of vectors on the other texts of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.quantize.measure.quality import batch_dependence
from fletcher.runtime.encodings import Encodings


def texts() -> Encodings:
    return Encodings.from_lists([np.arange(1, 3 + row % 7, dtype=np.int32) for row in range(60)])


def sums(batch: Encodings) -> NDArray[np.float32]:
    """Return vectors that depend only on their text: its length and the sum of its ids."""
    totals = np.add.reduceat(batch.ids, batch.offsets[:-1])
    return np.stack([batch.lengths, totals], axis=1).astype(np.float32)


def test_vectors_of_single_texts_do_not_depend_on_the_batch() -> None:
    largest, angle = batch_dependence(sums, texts())
    assert largest == 0.0 and angle == pytest.approx(1.0)


def test_a_scale_of_the_entire_batch_is_detected() -> None:
    def scaled(batch: Encodings) -> NDArray[np.float32]:
        return sums(batch) + np.array([0, batch.lengths.max()], np.float32)

    largest, angle = batch_dependence(scaled, texts())
    assert largest == 6.0 and angle < 0.99  # the shortest text has 2 tokens, another text has 8
