"""Parts of streams in an engine: they wait for room, are never dropped, and are computed in order."""

from __future__ import annotations

import time
from concurrent.futures import Future

import pytest

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import DeadlineError, OverloadedError, StoppingError
from fletcher.serve.engine.engine import INLINE_CHARACTERS
from fletcher.serve.engine.terms import Terms

from ...fake_encoder import FakeEncoder, request_for
from ..test_engine import SECONDS, assert_answers, wait_for
from ..test_terms import Order, begun, one_at_a_time

#: Texts of a part: 80 tokens, ten batches of `one_at_a_time`.
PART = [f"text {number}" for number in range(10)]


def stream(client: str = "a", deadline: float | None = None) -> Terms:
    return Terms(client=client, deadline=deadline).as_stream("bulk")


def texts_of(number: int) -> list[str]:
    return [f"{number} {text}"[:6] for text in PART]


def test_the_parts_of_a_stream_are_computed_one_after_the_other() -> None:
    encoder, order, terms = one_at_a_time(), Order(), stream()
    with begun(encoder) as engine:
        futures = []
        for number in range(4):
            futures.append(engine.submit(request_for(texts_of(number), terms=terms.at(number))))
            order.follow(str(number), futures[-1])
        encoder.gate.set()
        for number, future in enumerate(futures):
            assert_answers(future, texts_of(number))
    assert order.names == ["0", "1", "2", "3"]
    rows = encoder.batches[1:]
    assert rows == [[8]] * 40


def test_a_part_that_is_tokenized_late_comes_before_later_parts() -> None:
    encoder, order, terms = one_at_a_time(), Order(), stream()
    with begun(encoder) as engine:
        for number in (0, 2, 3, 1):
            order.follow(str(number), engine.submit(request_for(texts_of(number), terms=terms.at(number))))
        encoder.gate.set()
        wait_for(lambda: len(order.names) == 4)
    assert order.names == ["0", "1", "2", "3"]


def test_small_parts_of_one_stream_share_a_batch() -> None:
    encoder, terms = FakeEncoder(workers=1, token_budget=64), stream()
    with begun(encoder) as engine:
        futures = [engine.submit(request_for([text], terms=terms.at(number))) for number, text in enumerate(PART)]
        encoder.gate.set()
        for text, future in zip(PART, futures, strict=True):
            assert_answers(future, [text])
    assert encoder.batches[1:] == [[8] * 8, [8] * 2]


def test_two_streams_of_a_client_and_another_client_take_turns() -> None:
    encoder, order = one_at_a_time(), Order()
    with begun(encoder) as engine:
        for name, terms in (("one", stream()), ("two", stream()), ("other", stream("b"))):
            for number in range(2):
                order.follow(f"{name} {number}", engine.submit(request_for(texts_of(number), terms=terms.at(number))))
        encoder.gate.set()
        wait_for(lambda: len(order.names) == 6)
    # Each client gets half: the other client's 20 batches end before the 40 of the two streams.
    assert order.names.index("other 1") < order.names.index("one 1")
    assert order.names.index("one 0") < order.names.index("one 1")
    assert order.names.index("two 0") < order.names.index("two 1")


def test_a_part_waits_while_the_queue_is_full_and_others_are_refused() -> None:
    encoder, terms = one_at_a_time(), stream()
    with begun(encoder, max_queue_tokens=40) as engine:
        # Bulk requests of a client may fill 15 of 40 tokens.
        futures = [engine.submit(request_for([f"text {n}"], terms=terms.at(n))) for n in range(6)]
        assert engine.admission.tokens <= 16
        assert engine.admission.parked.count == 4
        with pytest.raises(OverloadedError, match="for a client whose requests wait"):
            engine.submit(request_for(["single"], terms=Terms("bulk", "a")))
        other = engine.submit(request_for(["others"], terms=Terms(client="b")))
        encoder.gate.set()
        for number, future in enumerate(futures):
            assert_answers(future, [f"text {number}"])
        assert_answers(other, ["others"])
        wait_for(lambda: engine.open_requests == 0)
        assert engine.admission.parked.count == 0


def test_a_stream_waits_for_memory_and_keeps_a_part_of_it_free_for_others() -> None:
    encoder, terms = one_at_a_time(), stream()
    with begun(encoder, max_memory=1000) as engine:
        # A text holds 8 floats and about 7 tokens of 8 bytes: 88 bytes.
        futures = [engine.submit(request_for([f"text {n}"], terms=terms.at(n))) for n in range(12)]
        assert engine.admission.memory <= 750
        assert engine.admission.parked.count == 12 - 7
        other = engine.submit(request_for(["others"], terms=Terms(client="b")))
        encoder.gate.set()
        for number, future in enumerate(futures):
            assert_answers(future, [f"text {number}"])
        assert_answers(other, ["others"])
        wait_for(lambda: engine.admission.memory == 0)


def test_a_stream_is_not_dropped_because_it_waits_long() -> None:
    encoder, terms = one_at_a_time(), stream()
    with begun(encoder, max_wait_seconds=0.02) as engine:
        parts = [engine.submit(request_for(texts_of(number), terms=terms.at(number))) for number in range(2)]
        dropped = engine.submit(request_for(["waited"]))
        time.sleep(0.1)
        encoder.gate.set()
        for number, future in enumerate(parts):
            assert_answers(future, texts_of(number))
        with pytest.raises(OverloadedError, match="longer than expected"):
            dropped.result(SECONDS)


def test_a_stream_does_not_join_another_request_that_could_be_dropped() -> None:
    encoder = one_at_a_time()
    with begun(encoder, max_wait_seconds=0.02) as engine:
        dropped = engine.submit(request_for(["shared"], terms=Terms("bulk", "a")))
        part = engine.submit(request_for(["shared"], terms=stream()))
        time.sleep(0.1)
        encoder.gate.set()
        assert_answers(part, ["shared"])
        with pytest.raises(OverloadedError):
            dropped.result(SECONDS)


def test_a_request_does_not_join_one_that_waits_behind_others_of_another_client() -> None:
    encoder, order = one_at_a_time(), Order()
    with begun(encoder) as engine:
        for number in range(10):
            order.follow("many", engine.submit(request_for([f"many {number}"], terms=Terms(client="a"))))
        order.follow("last", engine.submit(request_for(["shared"], terms=Terms(client="a"))))
        order.follow("other", engine.submit(request_for(["shared"], terms=Terms(client="b"))))
        encoder.gate.set()
        wait_for(lambda: len(order.names) == 12)
        assert order.names.index("other") <= 2
        assert order.names[-1] == "last"


def test_cancelled_parts_and_parts_past_their_deadline_free_the_queue() -> None:
    encoder = one_at_a_time()
    with begun(encoder, max_queue_tokens=40) as engine:
        gone, late, good = stream("a"), stream("a", time.monotonic() + 0.05), stream("a")
        cancelled = [engine.submit(request_for([f"gone {n}"], terms=gone.at(n))) for n in range(4)]
        passed = [engine.submit(request_for([f"late {n}"], terms=late.at(n))) for n in range(4)]
        answered = [engine.submit(request_for([f"good {n}"], terms=good.at(n))) for n in range(4)]
        assert engine.admission.parked.count == 10
        assert [future.cancel() for future in cancelled] == [True] * 4
        time.sleep(0.1)
        encoder.gate.set()
        for number, future in enumerate(answered):
            assert_answers(future, [f"good {number}"])
        for future in passed:
            with pytest.raises(DeadlineError):
                future.result(SECONDS)
        wait_for(lambda: engine.open_requests == 0)
        admission = engine.admission
        assert (admission.tokens, admission.memory, admission.shares.counted, admission.parked.count) == (0, 0, 0, 0)
    assert len(encoder.batches) == 5


def test_stopping_answers_the_parts_that_wait_for_room() -> None:
    encoder, terms = one_at_a_time(), stream()
    engine = begun(encoder, max_queue_tokens=40)
    futures = [engine.submit(request_for([f"text {n}"], terms=terms.at(n))) for n in range(6)]
    assert engine.admission.parked.count == 4
    encoder.gate.set()
    assert engine.stop(SECONDS)
    for number, future in enumerate(futures):
        assert_answers(future, [f"text {number}"])


def test_parts_that_wait_for_room_at_the_drain_limit_fail() -> None:
    encoder, terms = one_at_a_time(), stream()
    engine = begun(encoder, max_queue_tokens=40)
    futures = [engine.submit(request_for([f"text {n}"], terms=terms.at(n))) for n in range(6)]
    assert not engine.stop(0.05)
    for future in futures:
        with pytest.raises(StoppingError):
            future.result(SECONDS)
    assert engine.admission.shares.counted == 0
    encoder.gate.set()


def test_large_parts_that_waited_are_tokenized_on_another_thread() -> None:
    encoder, terms = FakeEncoder(workers=1), stream()
    texts = [f"{number:06}" for number in range(INLINE_CHARACTERS)]
    with begun(encoder, max_memory=200_000) as engine:
        futures: list[Future[Embeddings]] = [engine.submit(request_for(texts, terms=terms.at(n))) for n in range(3)]
        wait_for(lambda: engine.admission.parked.count == 2)
        encoder.gate.set()
        for future in futures:
            assert_answers(future, texts)
