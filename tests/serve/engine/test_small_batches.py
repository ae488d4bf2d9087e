"""Small batches of a GPU: requests that come while one is computed form the next batch together."""

from __future__ import annotations

import time

import pytest

from fletcher.serve.engine import backlog
from fletcher.serve.engine.engine import Engine

from ..fake_encoder import FakeEncoder, info, request_for
from .test_engine import SECONDS, assert_answers, wait_for


def gpu(*, devices: int = 1, small_tokens: int = 20) -> FakeEncoder:
    """Return a closed encoder with three workers, whose batches of at most `small_tokens` tokens are small."""
    encoder = FakeEncoder()
    encoder.info = info(workers=3, token_budget=64, devices=devices, small_tokens=small_tokens)
    encoder.gate.clear()
    return encoder


def open_batches(engine: Engine) -> int:
    """Return the number of batches that workers compute now."""
    return len(engine._backlog._computed)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small batch hold back others for as long as a test takes."""
    monkeypatch.setattr(backlog, "SMALL_SECONDS", SECONDS)


def test_requests_wait_for_a_small_batch_and_share_the_next_one(patient: None) -> None:
    encoder = gpu()
    with Engine(encoder) as engine:
        texts = ["first", "a", "b", "c"]
        futures = [engine.submit(request_for([texts[0]]))]
        wait_for(lambda: open_batches(engine) == 1)
        futures += [engine.submit(request_for([text])) for text in texts[1:]]
        time.sleep(0.05)
        assert open_batches(engine) == 1, "a batch was formed beside a small one"
        encoder.gate.set()
        for future, text in zip(futures, texts, strict=True):
            assert_answers(future, [text])
    assert encoder.batches == [[7], [3, 3, 3]]


def test_each_device_computes_a_small_batch(patient: None) -> None:
    encoder = gpu(devices=2)
    with Engine(encoder) as engine:
        futures = []
        for count, text in enumerate(["a", "b", "c"]):
            wait_for(lambda count=count: open_batches(engine) == count)  # type: ignore[misc]
            futures.append(engine.submit(request_for([text])))
        time.sleep(0.05)
        assert open_batches(engine) == 2
        encoder.gate.set()
        for future, text in zip(futures, ["a", "b", "c"], strict=True):
            assert_answers(future, [text])


def test_more_tokens_than_a_small_batch_has_do_not_wait(patient: None) -> None:
    encoder = gpu(small_tokens=20)
    with Engine(encoder) as engine:
        futures = [engine.submit(request_for(["a"]))]
        wait_for(lambda: open_batches(engine) == 1)
        more = [f"text {number}" for number in range(4)]  # 8 tokens each
        futures += [engine.submit(request_for([text])) for text in more]
        wait_for(lambda: open_batches(engine) >= 2)
        encoder.gate.set()
        for future, text in zip(futures, ["a", *more], strict=True):
            assert_answers(future, [text])


def test_a_large_batch_holds_nothing_back(patient: None) -> None:
    encoder = gpu(small_tokens=10)
    with Engine(encoder) as engine:
        large = [f"text {number}" for number in range(6)]
        futures = [engine.submit(request_for(large))]
        wait_for(lambda: open_batches(engine) == 1)
        futures.append(engine.submit(request_for(["a"])))
        wait_for(lambda: open_batches(engine) == 2)
        encoder.gate.set()
        assert_answers(futures[0], large)
        assert_answers(futures[1], ["a"])


def test_a_small_batch_that_hangs_stops_nothing() -> None:
    encoder = gpu()
    with Engine(encoder) as engine:
        futures = [engine.submit(request_for(["a"]))]
        wait_for(lambda: open_batches(engine) == 1)
        futures.append(engine.submit(request_for(["b"])))
        wait_for(lambda: open_batches(engine) == 2)  # after `SMALL_SECONDS`, although the first batch has not ended
        encoder.gate.set()
        for future, text in zip(futures, ["a", "b"], strict=True):
            assert_answers(future, [text])


def test_a_stop_ends_a_worker_that_waits_for_a_small_batch(patient: None) -> None:
    encoder = gpu()
    engine = Engine(encoder)
    futures = [engine.submit(request_for(["a"]))]
    wait_for(lambda: open_batches(engine) == 1)
    futures.append(engine.submit(request_for(["b"])))
    assert not engine.stop(drain_seconds=0.05)
    encoder.gate.set()
    assert all(future.exception(SECONDS) is not None for future in futures)


def test_without_a_size_of_small_batches_each_request_gets_a_free_worker() -> None:
    encoder = gpu(small_tokens=0)
    with Engine(encoder) as engine:
        futures = []
        for text in ["a", "b", "c"]:
            futures.append(engine.submit(request_for([text])))
            wait_for(lambda: engine.admission.tokens == 0)  # a worker has taken it
        encoder.gate.set()
        for future, text in zip(futures, ["a", "b", "c"], strict=True):
            assert_answers(future, [text])
    assert encoder.batches == [[3], [3], [3]]
