"""Waiting times by class, client and deadline, identical requests, and devices that fail or do not answer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Embeddings, Encodings
from fletcher.runtime.errors import DeadlineError, FailingError, OverloadedError, ProviderError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.engine.admission import MAX_MEMORY, Admission
from fletcher.serve.engine.breaker import Breaker
from fletcher.serve.engine.engine import Engine
from fletcher.serve.engine.fairness.drain_rate import DrainRate
from fletcher.serve.engine.fairness.shares import Shares
from fletcher.serve.engine.open_request import OpenRequest
from fletcher.serve.engine.price import Price
from fletcher.serve.engine.terms import Priority, Terms
from fletcher.serve.errors import TooLargeError
from fletcher.serve.models.readiness import Readiness
from fletcher.serve.observe.metrics import Metrics

from ..fake_encoder import FakeEncoder, expected, request_for
from .test_engine import SECONDS, assert_answers, wait_for


class Order:
    """Names of requests in the order of their answers."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def follow(self, name: str, future: Future[Any]) -> None:
        future.add_done_callback(lambda done: self.names.append(name))


def begun(encoder: FakeEncoder, **options: Any) -> Engine:
    """Return an engine whose only worker computes a text until the gate opens. Further requests wait."""
    encoder.gate.clear()
    engine = Engine(encoder, **options)
    engine.submit(request_for(["first"]))
    wait_for(lambda: engine.admission.tokens == 0)
    return engine


def one_at_a_time() -> FakeEncoder:
    """Return an encoder that computes each text of six characters in a separate batch."""
    return FakeEncoder(workers=1, token_budget=8)


def test_a_client_does_not_wait_for_all_of_another_ones_requests() -> None:
    encoder, order = one_at_a_time(), Order()
    with begun(encoder) as engine:
        for number in range(20):
            order.follow("many", engine.submit(request_for([f"many{number:02}"], terms=Terms(client="a"))))
        for number in range(2):
            order.follow("few", engine.submit(request_for([f"few {number:02}"], terms=Terms(client="b"))))
        encoder.gate.set()
        wait_for(lambda: len(order.names) == 22)
    assert [place for place, name in enumerate(order.names) if name == "few"][-1] <= 4


def test_classes_share_by_weight_and_the_lightest_also_runs() -> None:
    encoder, order = one_at_a_time(), Order()
    classes: tuple[Priority, ...] = ("bulk", "normal", "interactive")
    with begun(encoder) as engine:
        for priority in classes:
            for number in range(32):
                order.follow(
                    priority, engine.submit(request_for([f"{priority[:4]}{number:02}"], terms=Terms(priority)))
                )
        encoder.gate.set()
        wait_for(lambda: len(order.names) == 96)
    head = order.names[:42]
    assert head.count("interactive") >= 28 and head.count("normal") >= 6 and head.count("bulk") >= 1


def test_bulk_requests_leave_space_for_others() -> None:
    encoder = one_at_a_time()
    with begun(encoder, max_queue_tokens=40) as engine:

        def submit(text: str, priority: Priority) -> Future[Embeddings]:
            return engine.submit(request_for([text], terms=Terms(priority, client=text)))

        waiting = [submit(f"text {number}", "bulk") for number in range(2)]  # 16 tokens
        with pytest.raises(OverloadedError, match=r"this request has 7; the limit is 20\."):
            submit("text 2", "bulk")
        waiting += [submit(f"more {number}", "normal") for number in range(3)]  # 40 tokens
        with pytest.raises(OverloadedError, match=r"this request has 7; the limit is 40\."):
            submit("more 3", "normal")
        waiting.append(submit("urgent", "interactive"))
        encoder.gate.set()
        for future in waiting:
            future.result(SECONDS)


def test_a_request_past_its_deadline_is_not_computed() -> None:
    encoder = one_at_a_time()
    with begun(encoder) as engine:
        with pytest.raises(DeadlineError, match="had passed when it arrived"):
            engine.submit(request_for(["before"], terms=Terms(deadline=time.monotonic() - 1)))
        late = engine.submit(request_for(["late 1"], terms=Terms(deadline=time.monotonic() + 0.05)))
        good = engine.submit(request_for(["good 1"], terms=Terms(deadline=time.monotonic() + 60)))
        time.sleep(0.1)
        encoder.gate.set()
        assert_answers(good, ["good 1"])
        with pytest.raises(DeadlineError, match="passed before it was computed"):
            late.result(SECONDS)
        wait_for(lambda: engine.open_requests == 0)
        assert engine.admission.tokens == 0
    assert len(encoder.batches) == 2


def test_a_request_that_would_miss_its_deadline_is_rejected_at_admission() -> None:
    encoder = FakeEncoder(workers=1, token_budget=8, delay=0.05)
    with Engine(encoder) as engine:
        engine.submit(request_for(["abcdef"])).result(SECONDS)  # 160 tokens a second
        large = engine.submit(request_for(["abcdef"] * 12))
        with pytest.raises(OverloadedError, match=r"the deadline is in 0\.\d s"):
            engine.submit(request_for(["ghijkl"], terms=Terms(deadline=time.monotonic() + 0.1)))
        large.result(SECONDS)


def test_a_request_that_waits_longer_than_expected_fails() -> None:
    encoder = one_at_a_time()
    with begun(encoder, max_wait_seconds=0.05) as engine:
        waiting = engine.submit(request_for(["waited"]))
        time.sleep(0.1)
        encoder.gate.set()
        with pytest.raises(OverloadedError, match="longer than expected"):
            waiting.result(SECONDS)
        assert_answers(engine.submit(request_for(["after"])), ["after"])


def test_no_request_waits_longer_than_125_percent_of_the_limit() -> None:
    rate = DrainRate()
    rate.count_batch(1000, 1.0)
    admission = Admission(shares=Shares(10_000, 64), max_wait=1.0, max_memory=MAX_MEMORY, metrics=Metrics(), rate=rate)

    def admit(tokens: int) -> OpenRequest:
        return admission.admit(request_for([]), Price(0, 0, 0, tokens, 0))

    for waiting, patience in ((0, 1.0), (600, 1.2), (900, 1.25)):  # twice the expected wait, within bounds
        first = admit(waiting) if waiting else None
        before = time.monotonic()
        assert admit(0).expires - before == pytest.approx(patience, abs=0.05)
        if first is not None:
            admission.settle(first)


def test_memory_of_open_requests_is_bounded() -> None:
    encoder = one_at_a_time()
    encoder.info = msgspec.structs.replace(encoder.info, outputs=("vectors", "token_vectors"))
    with begun(encoder, max_memory=1000) as engine:
        with pytest.raises(OverloadedError, match="with this request they would hold more than"):
            engine.submit(request_for(["a"] * 14))  # 14 vectors of 8 floats
        with pytest.raises(OverloadedError, match="with this request they would hold more than"):
            engine.submit(request_for(["b" * 20], EmbedOptions(overflow="late")))  # the states of the tokens also count
        with pytest.raises(TooLargeError, match="of memory"):
            engine.submit(request_for(["a"] * 40))  # above the limit without any other request
        small = engine.submit(request_for(["b" * 100]))
        encoder.gate.set()
        assert small.result(SECONDS).dropped[0] > 0
        wait_for(lambda: engine.admission.memory == 0)


# Identical requests ---------------------------------------------------------------------------------------------------


def test_simultaneous_identical_requests_are_computed_once() -> None:
    encoder = one_at_a_time()
    with begun(encoder) as engine:
        futures = [engine.submit(request_for(["twice"])) for _ in range(3)]
        other = engine.submit(request_for(["other"]))
        encoder.gate.set()
        for future in futures:
            assert_answers(future, ["twice"])
        assert_answers(other, ["other"])
        assert b"fletcher_requests_joined_total 2.0" in engine.metrics.exposition()
        wait_for(lambda: engine.open_requests == 0)
        assert engine.admission.joinable == {}
        assert_answers(engine.submit(request_for(["twice"])), ["twice"])
    assert len(encoder.batches) == 4


def test_a_request_is_cancelled_only_by_all_its_callers() -> None:
    encoder = one_at_a_time()
    with begun(encoder) as engine:
        first, second = engine.submit(request_for(["shared"])), engine.submit(request_for(["shared"]))
        gone = [engine.submit(request_for(["absent"])), engine.submit(request_for(["absent"]))]
        assert first.cancel()
        assert all(future.cancel() for future in gone)
        encoder.gate.set()
        assert_answers(second, ["shared"])
        wait_for(lambda: engine.open_requests == 0)
    assert len(encoder.batches) == 2


def test_a_caller_does_not_join_a_request_of_a_lower_class() -> None:
    encoder = one_at_a_time()
    with begun(encoder) as engine:
        deadline = time.monotonic() + 0.05
        impatient = engine.submit(request_for(["shared"], terms=Terms(deadline=deadline)))
        patient = engine.submit(request_for(["shared"]))  # the first one then has the longer deadline
        slow = engine.submit(request_for(["others"], terms=Terms("bulk")))
        urgent = engine.submit(request_for(["others"], terms=Terms("interactive")))
        time.sleep(0.1)
        encoder.gate.set()
        for future, text in ((impatient, "shared"), (patient, "shared"), (slow, "others"), (urgent, "others")):
            assert_answers(future, [text])
    assert len(encoder.batches) == 4


# Devices --------------------------------------------------------------------------------------------------------------


def test_a_device_that_fails_repeatedly_is_paused() -> None:
    encoder = FakeEncoder(workers=1)
    with Engine(encoder) as engine:
        engine.failover.breaker = Breaker(failures=3, open_seconds=0.3)
        encoder.fails = RuntimeError("the driver is gone")
        for number in range(3):
            with pytest.raises(ProviderError, match="driver is gone"):
                engine.submit(request_for([f"text {number}"])).result(SECONDS)
        with pytest.raises(FailingError, match="failed several batches in a row") as caught:
            engine.submit(request_for(["more"]))
        assert caught.value.retry_after >= 1
        assert Readiness(engine).reason() == "the last 3 batches failed"
        encoder.fails = None
        wait_for(lambda: not engine.failover.breaker.is_open)
        assert_answers(engine.submit(request_for(["again"])), ["again"])
        assert engine.problem == ""


def test_batches_that_fail_on_a_device_run_on_the_spare_one() -> None:
    encoder, second = FakeEncoder(workers=1), FakeEncoder(workers=1)
    opened: list[FakeEncoder] = []

    def spare() -> FakeEncoder:
        opened.append(second)
        return second

    with Engine(encoder, spare=spare) as engine:
        engine.failover.breaker = Breaker(failures=2, open_seconds=60)
        assert engine.fallback is None
        encoder.fails = RuntimeError("the driver is gone")
        for number in range(4):
            assert_answers(engine.submit(request_for([f"text {number}"])), [f"text {number}"])
        assert b"fletcher_batches_retried_total 4.0" in engine.metrics.exposition()
        assert engine.fallback == "by hand failed; by hand computes the batches that fail"
        assert b"fletcher_provider_fallback 1.0" in engine.metrics.exposition()
    assert len(opened) == 1
    assert len(encoder.batches) == 2  # then the breaker is open, and the first device is not used any more
    assert len(second.batches) == 4


class Stuck(FakeEncoder):
    """Encoder whose first batch waits until `handle` is set. The other batches do not wait."""

    def __init__(self) -> None:
        super().__init__(workers=1)
        self.handle = threading.Event()
        self._first = True

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        if self._first:
            self._first = False
            self.handle.wait()
        return super().run(batch, output)


def test_a_stuck_device_is_detected_and_recovers_without_a_restart() -> None:
    encoder = Stuck()
    with Engine(encoder, stuck_seconds=0.1) as engine:
        readiness = Readiness(engine)
        lost = engine.submit(request_for(["stuck"]))
        with pytest.raises(ProviderError, match=r"did not answer a batch within 0\.1 s"):
            lost.result(SECONDS)
        assert readiness.reason() == "the device has not answered 1 batch for 0.1 s"
        assert_answers(engine.submit(request_for(["other"])), ["other"])  # another worker took its place
        assert engine.problem
        encoder.handle.set()
        wait_for(lambda: not engine.problem)
        wait_for(lambda: readiness.reason() == "")
        assert_answers(engine.submit(request_for(["after"])), ["after"])


def test_stopping_does_not_wait_for_a_stuck_device() -> None:
    encoder = Stuck()
    engine = Engine(encoder, stuck_seconds=0.1)
    with pytest.raises(ProviderError):
        engine.submit(request_for(["stuck"])).result(SECONDS)
    started = time.monotonic()
    assert not engine.stop(5.0)  # everything is answered, but the device still computes: the model must not be closed
    assert time.monotonic() - started < 3.0
    encoder.handle.set()


def test_vectors_do_not_depend_on_the_terms() -> None:
    with Engine(FakeEncoder()) as engine:
        for priority in ("interactive", "normal", "bulk"):
            terms = Terms(priority, "someone", time.monotonic() + 60)
            embeddings: Embeddings = engine.submit(request_for(["text"], terms=terms)).result(SECONDS)
            np.testing.assert_array_equal(embeddings.vectors[0], expected("text"))


def test_the_rate_of_a_queue_comes_from_the_time_between_batches() -> None:
    rate = DrainRate()
    for at in (0.0, 0.1, 0.2, 0.3):  # a batch of 100 tokens every 0.1 s
        rate.count_drained(100, at, waiting=True)
    assert rate.value == pytest.approx(1000)
    rate.count_drained(100, 0.6, waiting=True)  # a batch that took three times as long
    assert rate.value == pytest.approx(0.6 * 1000 + 0.4 * 100 / 0.3)


def test_an_empty_queue_does_not_change_the_rate() -> None:
    rate = DrainRate()
    for at in (0.0, 10.0, 20.0):
        rate.count_drained(100, at, waiting=False)
    assert rate.value is None
    rate.count_drained(100, 30.0, waiting=True)
    rate.count_drained(100, 30.5, waiting=True)
    assert rate.value == pytest.approx(200)
