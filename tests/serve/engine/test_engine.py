"""Engine: answers, batches, admission, cancellation, failures and shutdown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from fletcher.runtime import Embeddings, Encodings
from fletcher.runtime.errors import (
    DeadlineError,
    DeviceMemoryError,
    InputError,
    NotFiniteError,
    OverloadedError,
    ProviderError,
    StoppingError,
)
from fletcher.runtime.inputs import Texts, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.engine import workers
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.engine import INLINE_CHARACTERS, Engine
from fletcher.serve.engine.terms import Terms
from fletcher.serve.observe.metrics import Metrics

from ..fake_encoder import DIMENSION, MAX_TOKENS, POISON, FakeEncoder, expected, request_for, vector_of

SECONDS = 10.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


def assert_answers(future: Future[Embeddings], texts: list[str]) -> None:
    embeddings = future.result(SECONDS)
    np.testing.assert_array_equal(embeddings.vectors, np.stack([expected(text) for text in texts]))


def test_a_request_gets_its_vectors_and_its_token_counts() -> None:
    with Engine(FakeEncoder()) as engine:
        embeddings = engine.submit(request_for(["ab", "x" * 20, ""])).result(SECONDS)
    np.testing.assert_array_equal(embeddings.vectors, np.stack([expected("ab"), expected("x" * 20), expected("")]))
    assert embeddings.tokens.tolist() == [4, MAX_TOKENS, 2]
    assert embeddings.dropped.tolist() == [0, 6, 0]


def test_metrics_can_be_read_while_an_engine_is_made() -> None:
    class Scraped(Metrics):
        """Metrics that another thread reads as soon as one is added."""

        def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
            super().gauge(name, text, value)
            assert name.encode() in self.exposition()

    with Engine(FakeEncoder(), metrics=Scraped()) as engine:
        assert b"fletcher_batches_stuck 0.0" in engine.metrics.exposition()


def test_prompts_and_dimensions_reach_the_encoder() -> None:
    with Engine(FakeEncoder()) as engine:
        embeddings = engine.submit(request_for(["ab"], EmbedOptions(input_type="query", dimensions=4))).result(SECONDS)
    np.testing.assert_array_equal(embeddings.vectors, expected("ab", "query: ")[None, :4])


def test_token_ids_are_computed_without_changes() -> None:
    with Engine(FakeEncoder()) as engine:
        embeddings = engine.submit(EmbedRequest(TokenIds([[5, 6, 7], [8]]))).result(SECONDS)
    np.testing.assert_array_equal(embeddings.vectors, np.stack([vector_of([5, 6, 7]), vector_of([8])]))


def test_no_texts_give_no_vectors() -> None:
    with Engine(FakeEncoder()) as engine:
        assert engine.submit(request_for([])).result(SECONDS).vectors.shape == (0, DIMENSION)
        assert engine.open_requests == 0


def test_a_request_larger_than_a_batch_is_split_and_joined_in_order() -> None:
    encoder = FakeEncoder(token_budget=40)
    texts = ["abcdefghijkl"[: index % 12] + str(index % 7) for index in range(200)]
    with Engine(encoder) as engine:
        assert_answers(engine.submit(request_for(texts)), texts)
    assert len(encoder.batches) > 1
    assert max(map(sum, encoder.batches)) <= 40
    assert sum(map(len, encoder.batches)) == 200


def test_a_text_longer_than_the_budget_is_a_batch_by_itself() -> None:
    encoder = FakeEncoder(token_budget=4, workers=1)
    with Engine(encoder) as engine:
        assert_answers(engine.submit(request_for(["abcdefgh"])), ["abcdefgh"])
        assert_answers(engine.submit(request_for(["abcdefgh", "a", "ijklmnop"])), ["abcdefgh", "a", "ijklmnop"])
    assert encoder.batches == [[10], [10], [10], [3]]


def test_waiting_requests_share_a_batch() -> None:
    encoder = FakeEncoder(workers=1, token_budget=64)
    encoder.gate.clear()
    with Engine(encoder) as engine:
        first = engine.submit(request_for(["first"]))
        wait_for(lambda: engine.admission.tokens == 0)
        others = [engine.submit(request_for([text])) for text in ("a", "bc", "def")]
        encoder.gate.set()
        assert_answers(first, ["first"])
        for future, text in zip(others, ("a", "bc", "def"), strict=True):
            assert_answers(future, [text])
    assert encoder.batches == [[7], [3, 4, 5]]


def test_requests_of_similar_length_share_a_batch() -> None:
    encoder = FakeEncoder(workers=1, token_budget=24)
    encoder.gate.clear()
    with Engine(encoder) as engine:
        engine.submit(request_for(["first"]))
        wait_for(lambda: engine.admission.tokens == 0)
        futures = [engine.submit(request_for([text])) for text in ("a" * 10, "b", "c" * 10, "d", "e" * 10, "f")]
        encoder.gate.set()
        for future in futures:
            future.result(SECONDS)
    assert [sorted(batch) for batch in encoder.batches[1:]] == [[12, 12], [3, 3, 3, 12]]


def test_small_requests_do_not_wait_until_a_large_one_ends() -> None:
    encoder = FakeEncoder(workers=1, token_budget=16)
    encoder.gate.clear()
    with Engine(encoder) as engine:
        large = engine.submit(request_for(["0123456789"] * 50))
        small = engine.submit(request_for(["ab"]))
        encoder.gate.set()
        assert_answers(small, ["ab"])
        assert_answers(large, ["0123456789"] * 50)
    assert any(4 in batch for batch in encoder.batches[:3])


def test_many_threads_with_one_text_each_get_the_vectors_of_single_texts() -> None:
    texts = [f"text {index}" for index in range(64)]
    with Engine(FakeEncoder(delay=0.001)) as engine, ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda text: engine.submit(request_for([text])).result(SECONDS), texts))
    for text, answer in zip(texts, answers, strict=True):
        np.testing.assert_array_equal(answer.vectors[0], expected(text))


def test_large_inputs_are_tokenized_on_another_thread() -> None:
    encoder = FakeEncoder()
    threads: list[str] = []
    tokenize = encoder.tokenize

    def watched(texts: list[str], input_type: str | None = None) -> Encodings:
        threads.append(threading.current_thread().name)
        return tokenize(texts, input_type)

    encoder.tokenize = watched  # type: ignore[method-assign, assignment]
    with Engine(encoder) as engine:
        assert_answers(engine.submit(request_for(["a" * (INLINE_CHARACTERS + 1)])), ["a" * (INLINE_CHARACTERS + 1)])
        assert_answers(engine.submit(request_for(["a"])), ["a"])
    assert threads[0].startswith("fletcher-tokenize")
    assert threads[1] == threading.current_thread().name


def test_a_full_queue_rejects_requests_until_it_has_room() -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()
    with Engine(encoder, max_queue_tokens=20) as engine:
        first = engine.submit(request_for(["first"]))
        wait_for(lambda: engine.admission.tokens == 0)
        waiting = [engine.submit(request_for(["abcdef"])), engine.submit(request_for(["ghijkl"]))]
        with pytest.raises(OverloadedError, match="tokens wait") as caught:
            engine.submit(request_for(["mnopqr"]))
        assert caught.value.retry_after >= 1
        encoder.gate.set()
        assert_answers(first, ["first"])
        for future, text in zip(waiting, ("abcdef", "ghijkl"), strict=True):
            assert_answers(future, [text])
        assert_answers(engine.submit(request_for(["mnopqr"])), ["mnopqr"])


def test_a_request_larger_than_the_queue_is_admitted_if_the_queue_is_empty() -> None:
    texts = ["abcdef"] * 30
    with Engine(FakeEncoder(), max_queue_tokens=20) as engine:
        assert_answers(engine.submit(request_for(texts)), texts)


def test_a_request_with_a_long_expected_wait_is_rejected() -> None:
    encoder = FakeEncoder(workers=1, token_budget=8, delay=0.05)
    with Engine(encoder, max_wait_seconds=0.5) as engine:
        engine.submit(request_for(["abcdef"])).result(SECONDS)  # 8 tokens in 50 ms: 160 tokens per second
        large = engine.submit(request_for(["abcdef"] * 12))  # 96 tokens: 0.6 s
        with pytest.raises(OverloadedError, match=r"about 0\.\d s of work, and the limit is 0\.5 s"):
            engine.submit(request_for(["abcdef"]))
        large.result(SECONDS)


def test_a_cancelled_request_is_never_computed() -> None:
    encoder = FakeEncoder(workers=1, token_budget=8)
    encoder.gate.clear()
    with Engine(encoder) as engine:
        first = engine.submit(request_for(["first"]))
        wait_for(lambda: engine.admission.tokens == 0)
        second = engine.submit(request_for(["second"]))
        third = engine.submit(request_for(["third"]))
        assert second.cancel()
        encoder.gate.set()
        assert_answers(first, ["first"])
        assert_answers(third, ["third"])
        with pytest.raises(CancelledError):
            second.result(SECONDS)
        wait_for(lambda: engine.open_requests == 0)
        assert engine.admission.tokens == 0
    assert encoder.batches == [[7], [7]]


def test_cancelling_a_large_request_drops_its_remaining_texts() -> None:
    encoder = FakeEncoder(workers=1, token_budget=8, delay=0.01)
    with Engine(encoder) as engine:
        large = engine.submit(request_for(["abcdef"] * 500))
        wait_for(lambda: len(encoder.batches) > 2)
        assert large.cancel()
        assert_answers(engine.submit(request_for(["b"])), ["b"])
        wait_for(lambda: engine.open_requests == 0)
    assert len(encoder.batches) < 400


def test_a_vector_that_is_not_finite_is_an_error_of_one_request_in_its_batch() -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()
    with Engine(encoder) as engine:
        engine.submit(request_for(["first"]))
        wait_for(lambda: engine.admission.tokens == 0)
        good, bad = engine.submit(request_for(["good"])), engine.submit(request_for([POISON]))
        encoder.gate.set()
        assert_answers(good, ["good"])
        with pytest.raises(ProviderError, match="NaN"):
            bad.result(SECONDS)
        assert engine.failures > 0


def test_after_a_failed_batch_its_requests_run_separately() -> None:
    encoder = FakeEncoder(workers=1)
    run = encoder.run

    def picky(batch: Encodings, output: str | None = None) -> np.ndarray:
        if 7 in batch.lengths.tolist():
            raise RuntimeError("a third party's failure")
        return run(batch)

    encoder.run = picky  # type: ignore[method-assign]
    encoder.gate.clear()
    with Engine(encoder) as engine:
        first = engine.submit(request_for(["1"]))
        wait_for(lambda: engine.admission.tokens == 0)
        good, bad = engine.submit(request_for(["good"])), engine.submit(request_for(["worse"]))
        encoder.gate.set()
        assert_answers(first, ["1"])
        assert_answers(good, ["good"])
        with pytest.raises(ProviderError, match="third party"):
            bad.result(SECONDS)
        assert_answers(engine.submit(request_for(["after"[:4]])), ["afte"])


@dataclass
class Recorded:
    """Encoder whose library fails at texts of five characters. It takes a clock forward."""

    encoder: FakeEncoder
    clock: list[float]
    sizes: list[int] = field(default_factory=list)

    def __call__(self, batch: Encodings, output: str | None = None) -> np.ndarray:
        self.sizes.append(len(batch))
        self.clock[0] += 1.0
        if 7 in batch.lengths.tolist():
            raise RuntimeError("a third party's failure")
        return FakeEncoder.run(self.encoder, batch)


def test_companions_of_a_failing_text_are_dropped_at_their_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch takes a second. The companions are computed alone, one after the other, and wait for that."""
    encoder, clock = FakeEncoder(workers=1), [time.monotonic()]
    encoder.run = run = Recorded(encoder, clock)  # type: ignore[method-assign]
    encoder.gate.clear()
    # The engine's clock alone: a queue that waits, and the test itself, use the real one.
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter))
    with Engine(encoder) as engine:
        first = engine.submit(request_for(["1"]))
        wait_for(lambda: engine.admission.tokens == 0)
        until = clock[0] + 2.5  # the failing batch, and two texts alone
        bad = engine.submit(request_for(["worse"]))
        good = engine.submit(EmbedRequest(Texts(("2",)), terms=Terms("normal", "", until)))
        late = engine.submit(EmbedRequest(Texts(("3",)), terms=Terms("normal", "", until)))
        gone = engine.submit(request_for(["4"]))
        encoder.gate.set()
        assert_answers(first, ["1"])
        with pytest.raises(ProviderError, match="third party"):
            bad.result(SECONDS)
        assert_answers(good, ["2"])
        with pytest.raises(DeadlineError):
            late.result(SECONDS)
        assert_answers(gone, ["4"])
    assert run.sizes == [1, 4, 1, 1, 1]


def test_an_error_that_names_its_rows_costs_the_others_one_batch() -> None:
    encoder = FakeEncoder(workers=1, token_budget=256)
    encoder.gate.clear()
    with Engine(encoder) as engine:
        engine.submit(request_for(["1"]))
        wait_for(lambda: engine.admission.tokens == 0)
        good = [engine.submit(request_for([f"{number}", "two"])) for number in range(8)]
        bad = [engine.submit(request_for(["fine", POISON, str(number)])) for number in range(2)]
        more = engine.submit(request_for(["more"]))
        encoder.gate.set()
        for number, future in enumerate(good):
            assert_answers(future, [f"{number}", "two"])
        assert_answers(more, ["more"])
        for future in bad:
            with pytest.raises(NotFiniteError, match="NaN"):
                future.result(SECONDS)
        sizes = [len(batch) for batch in encoder.batches]
    assert sizes == [1, 8 * 2 + 2 * 3 + 1, 8 * 2 + 1, 3, 3]


@pytest.mark.parametrize("error", [NotFiniteError([0], "NaN"), DeviceMemoryError("too long a text")])
def test_texts_that_cannot_be_computed_do_not_make_it_refuse_others(error: ProviderError) -> None:
    """A client that sends such texts again and again. An error of the device itself opens the breaker after five."""
    encoder = FakeEncoder(workers=1)
    with Engine(encoder) as engine:
        for _ in range(12):
            encoder.fails = error
            with pytest.raises(type(error)):
                engine.submit(request_for(["a"])).result(SECONDS)
        encoder.fails = None
        assert_answers(engine.submit(request_for(["b"])), ["b"])


def test_invalid_inputs_are_rejected_at_admission() -> None:
    with Engine(FakeEncoder()) as engine:
        with pytest.raises(InputError, match="dimensions is 5"):
            engine.submit(request_for(["a"], EmbedOptions(dimensions=5)))
        assert engine.open_requests == 0
        assert engine.admission.tokens == 0


def test_a_text_that_cannot_be_tokenized_leaves_the_queue() -> None:
    encoder = FakeEncoder()

    def refuse(texts: list[str], input_type: str | None = None) -> Encodings:
        raise InputError("not these")

    encoder.tokenize = refuse  # type: ignore[method-assign, assignment]
    with Engine(encoder) as engine:
        with pytest.raises(InputError):
            engine.submit(request_for(["short"]))
        with pytest.raises(InputError):
            engine.submit(request_for(["long" * INLINE_CHARACTERS])).result(SECONDS)
        wait_for(lambda: engine.open_requests == 0)
        assert engine.admission.tokens == 0


def test_stopping_answers_admitted_requests_and_rejects_later_ones() -> None:
    encoder = FakeEncoder(delay=0.005, token_budget=16)
    engine = Engine(encoder)
    futures = [engine.submit(request_for([f"text {index}"])) for index in range(60)]
    futures.append(engine.submit(request_for(["x" * 3 * INLINE_CHARACTERS])))
    assert engine.stop(SECONDS)
    for index, future in enumerate(futures[:60]):
        assert_answers(future, [f"text {index}"])
    assert_answers(futures[60], ["x" * 3 * INLINE_CHARACTERS])
    with pytest.raises(StoppingError):
        engine.submit(request_for(["late"]))


def test_requests_that_wait_at_the_drain_limit_fail() -> None:
    encoder = FakeEncoder(workers=1, token_budget=8)
    encoder.gate.clear()
    engine = Engine(encoder)
    computing, waiting = engine.submit(request_for(["abcdef"])), engine.submit(request_for(["ghijkl"]))
    wait_for(lambda: engine.admission.tokens == 8)
    assert not engine.stop(0.05)
    for future in (computing, waiting):
        with pytest.raises(StoppingError):
            future.result(SECONDS)
    encoder.gate.set()
    for thread in engine._workers._threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert len(encoder.batches) == 1
