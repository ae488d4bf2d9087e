"""Memory of a batch, batches below a memory limit, and limits that are rejected."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.memory_shape import MemoryFactors, MemoryShape
from fletcher.runtime.errors import InputError
from fletcher.runtime.memory.budget import MemoryGate, memory_budget, request_bytes, resident
from fletcher.runtime.options.sizes import parse_size
from fletcher.runtime.providers.registry import PROVIDERS
from fletcher.runtime.providers.selection import find_provider
from fletcher.runtime.workers.planning import plan_batches

from ..peak import grown, needs_proc

SHAPE = MemoryShape(token=1000, cell=500, square=40, bias=7)
MIB = 1 << 20


def test_the_prediction_counts_tokens_cells_and_squares() -> None:
    assert SHAPE.predict(np.array([3, 5])) == 1000 * 8 + 500 * 10 + 40 * 50 + 7 * 25
    assert SHAPE.predict(np.array([], np.int64)) == 0
    assert SHAPE.scaled(MemoryFactors(2.0, 0.5, 0.0, 1.0)) == MemoryShape(token=2000, cell=250, square=0, bias=7)


def test_every_provider_predicts_the_memory_of_its_batches_in_the_process(tiny_artifact: Path) -> None:
    variant = msgspec.structs.replace(Artifact.open(tiny_artifact).variant(), memory=SHAPE)
    assert find_provider("mlas").memory.shape_of(variant) == SHAPE
    for provider in PROVIDERS:
        shape = provider.memory.shape_of(variant)
        assert shape is not None and shape.token > 0
        unknown = provider.memory.shape_of(msgspec.structs.replace(variant, memory=None))
        # A GPU has separate memory, so the process keeps the same few arrays for every graph.
        assert (unknown == shape) == (provider.device_kind == "nvidia")


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60), st.integers(1, 4000), st.integers(10_000, 100_000_000))
@settings(max_examples=200, deadline=None)
def test_no_batch_needs_more_than_its_limit(lengths: list[int], budget: int, limit: int) -> None:
    array = np.array(lengths, np.int64)
    batches = plan_batches(array, budget, SHAPE, limit)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or SHAPE.predict(array[batch]) <= limit
        assert len(batch) == 1 or array[batch].sum() <= budget


def test_batches_without_a_limit_do_not_depend_on_memory() -> None:
    array = np.random.default_rng(0).integers(1, 300, 200)
    for left, right in zip(plan_batches(array, 512), plan_batches(array, 512, SHAPE, None), strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_gate_never_holds_more_than_its_capacity() -> None:
    gate = MemoryGate(100)
    held = peak = 0
    lock = threading.Lock()

    def work(size: int) -> None:
        nonlocal held, peak
        with gate.hold(size):
            with lock:
                held += size
                peak = max(peak, held)
            time.sleep(0.001)
            with lock:
                held -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [60, 10, 30, 100, 50, 50, 5, 95] * 6))
    assert held == 0
    assert 50 < peak <= 100


def test_a_large_batch_that_waits_is_not_overtaken_by_later_small_ones() -> None:
    gate = MemoryGate(100)
    order: list[str] = []

    def work(name: str, size: int) -> None:
        with gate.hold(size):
            order.append(name)

    with gate.hold(50):
        threads = [threading.Thread(target=work, args=part) for part in (("large", 80), ("small", 30))]
        for number, thread in enumerate(threads, 1):
            thread.start()
            deadline = time.monotonic() + 10
            while gate.waiting < number and time.monotonic() < deadline:
                time.sleep(0.001)
        assert gate.waiting == 2  # although the small one would fit beside the held memory
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["large", "small"]


def test_a_batch_larger_than_the_gate_passes_alone() -> None:
    with MemoryGate(10).hold(1000):
        pass


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("800", 800),
        ("2GB", 2 * 10**9),
        ("512 MiB", 512 * MIB),
        ("1.5g", 1_500_000_000),
        ("64KiB", 65536),
        ("3kb", 3000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "0", "1 XB", "GB"])
def test_invalid_sizes_are_rejected(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_size(text)


def test_the_error_of_a_small_limit_names_the_required_size() -> None:
    budget_of = partial(memory_budget, SHAPE, loaded=200 * MIB, caches=40 * MIB, workers=2, max_tokens=512)
    longest = SHAPE.predict(np.array([512]))
    with pytest.raises(
        InputError, match=r"one text of 512 tokens needs 13 MiB beside the loaded model's 200 MiB"
    ) as caught:
        budget_of(limit=210 * MIB)
    needed = int(str(caught.value).partition("Give at least ")[2].partition(" MiB")[0])
    budget = budget_of(limit=needed * MIB)
    assert longest <= budget.gate.capacity < longest + MIB
    assert budget.batch >= longest


@pytest.mark.parametrize("loaded", [100, 350, 400, 900, 8000])
def test_a_sixteenth_of_a_large_limit_is_reserved(loaded: int) -> None:
    budget_of = partial(memory_budget, SHAPE, loaded=loaded * MIB, caches=40 * MIB, workers=2, max_tokens=512)
    longest = int(SHAPE.predict(np.array([512])))
    with pytest.raises(InputError, match="is too small") as caught:
        budget_of(limit=loaded * MIB)
    needed = int(str(caught.value).partition("Give at least ")[2].partition(" MiB")[0])
    with pytest.raises(InputError, match="is too small"):
        budget_of(limit=(needed - 2) * MIB)
    capacity = budget_of(limit=needed * MIB).gate.capacity
    assert longest <= capacity < longest + MIB
    reserve = max(24 * MIB, needed * MIB // 16)  # the texts, the vectors and the allocator
    assert loaded * MIB + 40 * MIB + capacity + reserve == needed * MIB
    assert request_bytes(needed * MIB) == reserve * 2 // 3


def test_workers_without_shared_memory_each_need_memory_for_the_longest_text() -> None:
    budget_of = partial(
        memory_budget, SHAPE, loaded=200 * MIB, caches=40 * MIB, workers=3, max_tokens=512, shared=False
    )
    longest = SHAPE.predict(np.array([512]))
    with pytest.raises(InputError, match=r"needs 13 MiB on each of 3 workers .*, take fewer --workers, or") as caught:
        budget_of(limit=280 * MIB)
    needed = int(str(caught.value).partition("Give at least ")[2].partition(" MiB")[0])
    budget = budget_of(limit=needed * MIB)
    # No batch is larger than a worker's share. So three workers that each keep the memory of one batch stay below the limit.
    assert longest <= budget.batch
    assert 3 * budget.batch <= budget.gate.capacity


def test_a_limit_too_small_for_the_longest_text_is_rejected_at_load(minilm_artifact: Path) -> None:
    with pytest.raises(InputError, match=r"a memory limit of 50 MiB is too small: one text of 256 tokens needs"):
        Encoder.load(minilm_artifact, provider="mlas", memory_limit=50 * MIB)


def test_openvino_needs_memory_for_the_longest_text_in_each_worker(minilm_artifact: Path) -> None:
    """Workers do not share the memory that they keep (measured by benchmarks/memory/peak.py --workers 2)."""
    with pytest.raises(InputError, match=r"needs \d+ MiB on each of 2 workers .*, take fewer --workers, or"):
        Encoder.load(minilm_artifact, provider="openvino", workers=2, memory_limit=50 * MIB)


def test_an_artifact_that_does_not_state_its_memory_is_rejected(own_artifact: Path) -> None:
    import json

    manifest = own_artifact / "fletcher.json"
    content = json.loads(manifest.read_text())
    assert content["variants"][0].pop("memory")
    del content["checksum"]
    manifest.write_text(json.dumps(content))
    Encoder.load(own_artifact, provider="mlas").close()
    with pytest.raises(InputError, match="does not state the memory that its batches need"):
        Encoder.load(own_artifact, provider="mlas", memory_limit=1 << 34)


def test_a_limited_encoder_returns_the_same_vectors_and_stays_below_the_limit(minilm_artifact: Path) -> None:
    texts = ["word " * length for length in (250, 3, 100, 250, 250, 40, 250, 7)] * 3
    with Encoder.load(minilm_artifact, provider="mlas", workers=2) as free:
        expected = free.embed(texts).vectors
    limit = resident() + 200 * MIB
    with Encoder.load(minilm_artifact, provider="mlas", workers=2, memory_limit=limit) as encoder:
        vectors = encoder.embed(texts).vectors
        assert resident() <= limit
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)


@needs_proc
@pytest.mark.parametrize("lengths", [[256] * 16, [64] * 64, [8] * 512, [250, *[4] * 15]])
def test_the_prediction_bounds_the_memory_of_the_real_model(minilm_artifact: Path, lengths: list[int]) -> None:
    shape = Artifact.open(minilm_artifact).variant().memory
    assert shape is not None
    measured = grown(minilm_artifact / "cpu-fp32.onnx", lengths)
    predicted = shape.predict(np.array(lengths))
    assert measured <= predicted * 1.05 + 4 * MIB
    assert predicted <= 1.6 * measured
