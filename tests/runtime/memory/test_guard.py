"""Batches on a device with little memory: their memory is predicted and measured; they are split, halved or rejected.

The device is a double with an arena like that of ONNX Runtime: the arena grows to the largest memory that simultaneous
batches need, and never shrinks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.memory_shape import MemoryShape
from fletcher.runtime.batch import Batch
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import DeviceMemoryError, InputError
from fletcher.runtime.memory.estimate import MOST, MemoryEstimate
from fletcher.runtime.memory.guard import FRESH, MemoryGuard
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.session.session import Session

MIB = 1 << 20
#: One mebibyte for each cell of (texts, longest).
SHAPE = MemoryShape(token=0, cell=MIB, square=0)
TOTAL = 1000 * MIB


class Card(Session):
    """Device and session. The values that a run returns are the ids of the tokens.

    Attributes:
        truth: returns the bytes that a batch needs, from the lengths of its texts.
        others: bytes that other programs hold.
        arena: bytes that the session holds.
        batches: lengths of the texts of each computed batch.
        most: largest number of bytes that simultaneous batches needed.
    """

    provider = "fake"

    def __init__(self, *, truth: Callable[[NDArray[np.int64]], int] = SHAPE.predict, others: int = 0) -> None:
        self.truth, self.others = truth, others
        self.arena = self.in_use = self.most = 0
        self.batches: list[list[int]] = []
        self.attempts = 0
        self.barrier: threading.Barrier | None = None
        self.now = 0.0
        self._lock = threading.Lock()

    def memory_info(self) -> tuple[int, int]:
        return max(0, TOTAL - self.others - self.arena), TOTAL

    def held(self) -> int:
        return self.arena

    def clock(self) -> float:
        self.now += 2 * FRESH  # so that no measurement is reused
        return self.now

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        needed = self.truth(batch.lengths)
        with self._lock:
            self.attempts += 1
            if self.in_use + needed > max(self.arena, TOTAL - self.others):
                raise DeviceMemoryError("CUDA out of memory")
            self.in_use += needed
            self.arena = max(self.arena, self.in_use)
            self.most = max(self.most, self.in_use)
            self.batches.append(batch.lengths.tolist())
        if self.barrier is not None:
            self.barrier.wait(20)
        ids = batch.tensors(["input_ids"])["input_ids"]
        values = ids if output == "token_vectors" else ids[batch.offsets[:-1]]
        with self._lock:
            self.in_use -= needed
        return values.astype(np.float32)[:, None]

    def close(self) -> None:
        self.batches.append([])


def guard_of(card: Card, *, exact: bool = True, factor: float = 1.0) -> MemoryGuard:
    return MemoryGuard(
        card,
        MemoryEstimate(SHAPE, factor=factor, smallest=10 * MIB),
        card.memory_info,
        reserve=100 * MIB,
        held=card.held if exact else None,
        clock=card.clock,
    )


def texts(*lengths: int) -> Encodings:
    """Return texts of these lengths with the ids 0, 1, 2, … over all texts."""
    flat = np.arange(sum(lengths), dtype=np.int32)
    return Encodings.from_lists(np.split(flat, np.cumsum(lengths)[:-1]))


def firsts(encodings: Encodings) -> list[list[float]]:
    return [[float(first)] for first in encodings.offsets[:-1]]


def test_a_batch_that_fits_is_not_split() -> None:
    card = Card()
    with guard_of(card) as guard:
        batch = texts(50, 10, 50)
        np.testing.assert_array_equal(guard.run(batch), firsts(batch))
        assert card.batches == [[50, 10, 50]]
        assert (guard.estimate.splits, guard.estimate.retries) == (0, 0)
        assert guard.provider == "fake"


@pytest.mark.parametrize("exact", [True, False])
def test_a_batch_that_does_not_fit_is_split_into_about_equal_parts_before_it_runs(exact: bool) -> None:
    card = Card(others=500 * MIB)  # 400 MiB are free beside the reserve
    guard = guard_of(card, exact=exact)
    batch = texts(*[100] * 10)
    np.testing.assert_array_equal(guard.run(batch), firsts(batch))
    assert card.attempts == len(card.batches)  # nothing failed
    assert [len(rows) for rows in card.batches] == [4, 3, 3]
    assert guard.estimate.retries == 0
    assert guard.estimate.splits == 2


def test_rows_of_tokens_are_joined_in_order() -> None:
    card = Card(others=600 * MIB)
    batch = texts(30, 3, 90, 1, 60, 60, 2)
    vectors = guard_of(card).run(batch, "token_vectors")
    np.testing.assert_array_equal(vectors[:, 0], batch.ids)
    assert len(card.batches) > 1


@given(st.lists(st.integers(1, 120), min_size=1, max_size=40), st.integers(0, 700), st.floats(0.5, 3.0), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_row_comes_back_once_and_in_place(lengths: list[int], others: int, wrong: float, exact: bool) -> None:
    card = Card(truth=lambda lengths: int(wrong * SHAPE.predict(lengths)), others=others * MIB)
    guard = guard_of(card, exact=exact)
    batch = texts(*lengths)
    if wrong * max(lengths) * MIB > TOTAL - card.others:
        with pytest.raises(DeviceMemoryError, match="1 text of"):
            guard.run(batch)
    else:
        np.testing.assert_array_equal(guard.run(batch), firsts(batch))
    assert card.attempts <= 3 * len(lengths) + 2


def test_out_of_memory_halves_the_batch_and_runs_it_again() -> None:
    card = Card(truth=lambda lengths: 3 * SHAPE.predict(lengths))  # the prediction is wrong by a factor of three
    guard = guard_of(card)
    batch = texts(*[10] * 80)  # 800 MiB are predicted, 2400 MiB are needed
    np.testing.assert_array_equal(guard.run(batch), firsts(batch))
    assert card.attempts > len(card.batches)
    assert guard.estimate.retries == card.attempts - len(card.batches)
    assert guard.estimate.factor == pytest.approx(3)  # the measured factor
    failed = guard.estimate.retries
    np.testing.assert_array_equal(guard.run(batch), firsts(batch))
    assert guard.estimate.retries == failed  # the measured factor prevents further failures


def test_a_text_that_does_not_fit_is_rejected_with_the_sizes() -> None:
    card = Card(others=800 * MIB)
    guard = guard_of(card)
    with pytest.raises(DeviceMemoryError) as caught:
        guard.run(texts(300))
    assert "1 text of 300 tokens needs about 300 MiB on fake" in str(caught.value)
    assert "has 200 MiB of 1000 MiB" in str(caught.value)
    assert "end other programs" in str(caught.value)
    assert isinstance(caught.value.__cause__, DeviceMemoryError)
    assert card.attempts == 2  # the second attempt has the memory for itself; there is no third
    assert guard.estimate.refused == 1
    with pytest.raises(DeviceMemoryError, match="1 text of 300 tokens"):
        guard.run(texts(50, 300, 50))
    np.testing.assert_array_equal(guard.run(texts(50, 50)), [[0], [50]])


def test_a_single_text_is_tried_although_it_should_not_fit() -> None:
    card = Card(truth=lambda lengths: SHAPE.predict(lengths) // 4, others=600 * MIB)
    assert guard_of(card).run(texts(900)).shape == (1, 1)


def test_batches_shrink_and_grow_with_the_memory_of_other_programs() -> None:
    card = Card()
    guard = guard_of(card)
    guard.run(texts(*[100] * 2))
    card.batches.clear()
    card.others = 500 * MIB
    guard.run(texts(*[100] * 8))
    assert [len(rows) for rows in card.batches] == [4, 4]
    card.batches.clear()
    card.others = 0
    guard.run(texts(*[100] * 8))
    assert [len(rows) for rows in card.batches] == [8]
    assert guard.estimate.retries == 0


def test_memory_of_the_arena_is_usable_although_the_device_has_none_free() -> None:
    for exact in (True, False):
        card = Card()
        guard = guard_of(card, exact=exact)
        batch = texts(*[100] * 8)
        guard.run(batch)
        card.others = TOTAL - card.arena  # not a byte is free
        assert card.memory_info()[0] == 0
        card.batches.clear()
        guard.run(texts(*[100] * 7))
        assert [len(rows) for rows in card.batches] == [7]


def test_batches_wait_until_they_fit_together() -> None:
    card = Card()
    guard = guard_of(card)
    batch = texts(*[100] * 3)  # three such batches need all memory
    with ThreadPoolExecutor(8) as pool:
        for vectors in pool.map(guard.run, [batch] * 40):
            np.testing.assert_array_equal(vectors, firsts(batch))
    assert card.most <= 900 * MIB
    assert guard.estimate.retries == 0


def test_two_batches_that_ran_together_are_measured_together() -> None:
    card = Card(truth=lambda lengths: int(1.25 * SHAPE.predict(lengths)))
    card.barrier = threading.Barrier(2)
    guard = guard_of(card)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(guard.run, [texts(*[100] * 3)] * 2))
    assert card.most == 750 * MIB
    assert guard.estimate.factor == pytest.approx(1.25)


def test_the_correction_rises_at_once_and_falls_slowly_to_the_measured_factor() -> None:
    estimate = MemoryEstimate(SHAPE, smallest=10)
    estimate.learn(100, 0, 200)
    assert estimate.factor == 2
    assert estimate.predict(np.array([3])) == 6 * MIB
    for _ in range(1000):
        estimate.learn(400, 200, 200)  # this batch needs half of the prediction, but another one needed all of it
    assert estimate.factor == 2
    generous = MemoryEstimate(SHAPE, factor=3.0, smallest=10)
    generous.learn(100, 0, 100)
    assert 2.8 < generous.factor < 3
    for _ in range(1000):
        generous.learn(1000, 100, 100)
    assert generous.factor == pytest.approx(1)
    generous.learn(100, 100, 10_000)
    assert generous.factor == MOST  # a larger difference comes from other programs
    small = MemoryEstimate(SHAPE, smallest=1000)
    small.learn(999, 0, 1998)
    assert small.factor == 1


def test_after_a_failure_batches_grow_back() -> None:
    card = Card(truth=lambda lengths: 2 * SHAPE.predict(lengths))
    guard = guard_of(card, exact=False)
    guard.run(texts(*[10] * 85))
    card.truth = SHAPE.predict
    guard.estimate.factor = 1.0
    assert guard.estimate.retries == 1
    for _ in range(60):
        guard.run(texts(10))
    card.batches.clear()
    guard.run(texts(*[10] * 85))
    assert len(card.batches) == 1


def test_other_errors_pass_and_release_memory() -> None:
    def refuse(lengths: NDArray[np.int64]) -> int:
        raise InputError("bad")

    card = Card(truth=refuse)
    guard = guard_of(card)
    for _ in range(3):
        with pytest.raises(InputError, match="bad"):
            guard.run(texts(400, 400))
    card.truth = SHAPE.predict
    assert guard.run(texts(400, 400)).shape == (2, 1)


def test_metrics_have_the_name_of_the_device() -> None:
    card = Card(others=500 * MIB)
    guard = guard_of(card)
    guard.run(texts(*[100] * 10))
    metrics = {metric.name: metric.value() for metric in guard.estimate.metrics("cuda:1")}
    assert {metric.device for metric in guard.estimate.metrics("cuda:1")} == {"cuda:1"}
    assert metrics == {
        "fletcher_gpu_memory_predicted_bytes": 300 * MIB,
        "fletcher_gpu_memory_measured_bytes": 400 * MIB,
        "fletcher_gpu_memory_correction": 1.0,
        "fletcher_gpu_batches_split_total": 2,
        "fletcher_gpu_out_of_memory_total": 0,
        "fletcher_gpu_texts_refused_total": 0,
    }


def test_a_real_model_on_a_small_device_returns_the_same_vectors(tiny_artifact: Path) -> None:
    artifact = Artifact.open(tiny_artifact)
    variant = artifact.variant()
    assert variant.memory is not None
    encodings = Encodings.from_lists([[1 + row % 20] * (1 + row % 19) for row in range(60)])
    with open_session(artifact, variant) as session:
        expected = session.run(encodings)
        room = variant.memory.predict(encodings.lengths) // 5
        estimate = MemoryEstimate(variant.memory)
        guard = MemoryGuard(session, estimate, lambda: (room, room), reserve=0)
        np.testing.assert_allclose(guard.run(encodings), expected, rtol=0, atol=1e-6)
        assert estimate.splits >= 4
