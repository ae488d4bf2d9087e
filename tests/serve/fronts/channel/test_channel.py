"""Requests through a front and an engine process's channel: the answers are the encoder's own, whatever happens."""

from __future__ import annotations

import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fletcher.runtime import EmbedOptions, Encoder
from fletcher.runtime.errors import (
    DeadlineError,
    FailingError,
    InputError,
    OverloadedError,
    ProviderError,
    StoppingError,
    TooLongError,
)
from fletcher.runtime.inputs import Texts, TokenIds
from fletcher.serve.engine.backend import Backend
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.terms import Terms
from fletcher.serve.errors import UnknownModelError
from fletcher.serve.fronts.channel.errors import error_of, failure_of
from fletcher.serve.fronts.channel.rows_server import RowsServer
from fletcher.serve.fronts.channel.wire import Rows, encode, rows_frame
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.surroundings import load_encoder

from .pair import Front, open_engine, open_front

TEXTS = ["hello world", "a", "the quick brown fox", "hello world", ""]


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Unix socket's path, which must be short."""
    return tmp_path_factory.mktemp("f") / "rows"


@pytest.fixture
def spec(tiny_artifact: Path) -> ModelSpec:
    return ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0)


@pytest.fixture
def engine(spec: ModelSpec, path: Path) -> Iterator[RowsServer]:
    with open_engine([spec], path) as server:
        yield server


@pytest.fixture
def front(engine: RowsServer, path: Path) -> Iterator[Front]:
    with open_front(path) as front:
        front.wait_for_catalog()
        yield front


@pytest.fixture
def encoder(tiny_artifact: Path) -> Iterator[Encoder]:
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        yield encoder


def ask(front: Front, request: EmbedRequest, seconds: float = 20.0) -> Any:
    return front.models.submit_blocking("tiny", request)[1].result(seconds)


@pytest.mark.parametrize(
    "options",
    [
        EmbedOptions(),
        EmbedOptions(dtype="float16"),
        EmbedOptions(dtype="int8"),
        EmbedOptions(normalize=True),
        EmbedOptions(input_type="query"),
        EmbedOptions(overflow="windows"),
    ],
)
def test_vectors_are_those_of_the_encoder(front: Front, encoder: Encoder, options: EmbedOptions) -> None:
    texts = [*TEXTS, "a long text of many words " * 60]
    answer = ask(front, EmbedRequest(Texts(tuple(texts)), options))
    expected = encoder.embed(texts, options)
    np.testing.assert_array_equal(answer.vectors, expected.vectors)
    np.testing.assert_array_equal(answer.tokens, expected.tokens)
    np.testing.assert_array_equal(answer.dropped, expected.dropped)


def test_token_ids_and_token_states_cross_as_well(front: Front, encoder: Encoder) -> None:
    rows = [row.tolist() for row in (np.array([2, 5, 3]), np.array([2, 9, 9, 9, 3]))]
    task = encoder.prepare(TokenIds(rows))
    answer = ask(front, EmbedRequest(TokenIds(rows)))
    np.testing.assert_array_equal(answer.vectors, task.finish(encoder.compute(task.encodings)).vectors)
    states = ask(front, EmbedRequest(Texts(("hello world", "a")), output="token_vectors"))
    task = encoder.prepare(Texts(("hello world", "a")), output="token_vectors")
    expected = task.finish(encoder.compute(task.encodings, task.output))
    np.testing.assert_allclose(states.vectors, expected.vectors, atol=1e-6)
    np.testing.assert_array_equal(states.offsets, expected.offsets)


def test_no_text_is_answered_without_the_engine(front: Front) -> None:
    assert ask(front, EmbedRequest(Texts(()))).vectors.shape[0] == 0


def test_every_answer_belongs_to_its_request(front: Front, encoder: Encoder) -> None:
    texts = [f"text number {number} {'more ' * (number % 17)}" for number in range(400)]
    expected = encoder.embed(texts).vectors
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: ask(front, EmbedRequest(Texts((text,)))).vectors[0], texts))
    np.testing.assert_allclose(np.stack(answers), expected, atol=1e-6)


def test_requests_that_come_together_are_one_message(
    front: Front, engine: RowsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (version for model in engine.models.named for version in model.versions):
        version.wake()
    requests = [EmbedRequest(Texts((f"text {number}",))) for number in range(64)]
    sent: list[Any] = []
    compute = engine.compute

    def record(connection: Any, message: Rows, payload: memoryview) -> None:
        sent.append(message)
        compute(connection, message, payload)

    monkeypatch.setattr(engine, "compute", record)
    futures = [front.models.submit_blocking("tiny", request)[1] for request in requests]
    for future in futures:
        assert len(future.result(20)) == 1
    assert sum(message.requests for message in sent) == 64
    assert len(sent) < 32
    counts = counters(front.models.metrics.exposition())
    assert counts["fletcher_tokenizer_texts_total"] >= 64
    # The page of the engine process has the counts of both.
    page = counters(engine.models.metrics.exposition())
    assert page["fletcher_admission_admitted_total"] == 64
    assert page["fletcher_tokenization_duration_seconds_count"] == 64
    assert page["fletcher_models_awake"] == 1


def counters(page: bytes) -> dict[str, float]:
    """Return the values of metrics without labels."""
    families = text_string_to_metric_families(page.decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def test_requests_of_other_terms_do_not_share_a_message(
    front: Front, engine: RowsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Rows] = []
    compute = engine.compute

    def record(connection: Any, message: Rows, payload: memoryview) -> None:
        sent.append(message)
        compute(connection, message, payload)

    monkeypatch.setattr(engine, "compute", record)
    terms = [
        Terms("bulk", "a"),
        Terms("bulk", "b"),
        Terms("interactive", "a"),
        Terms("bulk", "a", time.monotonic() + 60),
    ]
    futures = [
        front.models.submit_blocking("tiny", EmbedRequest(Texts((f"{number}",)), terms=terms[number % 4]))[1]
        for number in range(32)
    ]
    for future in futures:
        future.result(20)
    assert {(message.priority, message.client) for message in sent} == {
        ("bulk", "a"),
        ("bulk", "b"),
        ("interactive", "a"),
    }
    assert all(message.requests == 1 for message in sent if message.seconds is not None)
    assert sum(message.seconds is not None for message in sent) == 8


def test_errors_of_inputs_are_raised_at_once(front: Front) -> None:
    with pytest.raises(InputError, match="vocabulary"):
        front.models.submit_blocking("tiny", EmbedRequest(TokenIds([[10**6]])))
    with pytest.raises(InputError):
        front.models.submit_blocking("tiny", EmbedRequest(Texts(("a",)), EmbedOptions(dimensions=7)))
    with pytest.raises(TooLongError):
        front.models.submit_blocking("tiny", EmbedRequest(Texts(("word " * 400,)), EmbedOptions(overflow="refuse")))
    with pytest.raises(DeadlineError):
        front.models.submit_blocking("tiny", EmbedRequest(Texts(("a",)), terms=Terms(deadline=time.monotonic() - 1)))
    assert front.models.open_requests == 0


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError("full", 3.0),
        FailingError("fails", 2.0),
        StoppingError("stops"),
        DeadlineError("late"),
        ProviderError("broken"),
        TooLongError("long"),
        ValueError("foreign"),
    ],
)
def test_errors_of_the_engine_keep_their_class_and_text(error: Exception) -> None:
    rebuilt = error_of(failure_of(1, error))
    assert type(rebuilt) is (ProviderError if isinstance(error, ValueError) else type(error))
    assert str(error) in str(rebuilt)
    assert getattr(rebuilt, "retry_after", None) == getattr(error, "retry_after", None)


class Poisoned:
    """An encoder that fails at batches that hold a token."""

    def __init__(self, inner: Encoder, token: int) -> None:
        self._inner, self._token = inner, token
        self.info = inner.info
        self.batches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, batch: Any, output: str | None = None) -> Any:
        self.batches += 1
        if self._token in batch.ids:
            raise ProviderError("the row is poisoned")
        return self._inner.run(batch, output)


def test_a_request_that_fails_does_not_fail_those_of_its_message(spec: ModelSpec, path: Path, encoder: Encoder) -> None:
    poison = 31

    def load(spec: ModelSpec) -> Backend:
        return Poisoned(load_encoder(spec), poison)  # type: ignore[arg-type]

    with open_engine([spec], path, load=load) as _, open_front(path) as front:
        front.wait_for_catalog()
        rows = [[2, 5 + number, 3] if number != 9 else [2, poison, 3] for number in range(20)]
        futures = [front.models.submit_blocking("tiny", EmbedRequest(TokenIds([row])))[1] for row in rows]
        for number, (row, future) in enumerate(zip(rows, futures, strict=True)):
            if number == 9:
                with pytest.raises(ProviderError, match="poisoned"):
                    future.result(20)
            elif poison not in row:
                task = encoder.prepare(TokenIds([row]))
                expected = task.finish(encoder.compute(task.encodings)).vectors
                np.testing.assert_allclose(future.result(20).vectors, expected, atol=1e-6)


def test_an_engine_that_ends_fails_what_is_open_and_a_new_one_answers(spec: ModelSpec, path: Path) -> None:
    gate = threading.Event()

    class Slow(Poisoned):
        def run(self, batch: Any, output: str | None = None) -> Any:
            gate.wait(20)
            return self._inner.run(batch, output)

    with open_front(path) as front:
        with open_engine([spec], path, load=lambda spec: Slow(load_encoder(spec), -1), drain_seconds=0.2):  # type: ignore[arg-type]
            front.wait_for_catalog()
            _, future = front.models.submit_blocking("tiny", EmbedRequest(Texts(("a",))))
        with pytest.raises((FailingError, StoppingError)):
            future.result(20)
        gate.set()
        with pytest.raises((FailingError, StoppingError)):
            front.models.submit_blocking("tiny", EmbedRequest(Texts(("a",))))[1].result(20)
        path.unlink(missing_ok=True)
        with open_engine([spec], path):
            front.wait_for_catalog(2)
            assert len(ask(front, EmbedRequest(Texts(("a",))))) == 1


def test_a_cancelled_request_is_cancelled_in_the_engine(spec: ModelSpec, path: Path) -> None:
    gate = threading.Event()

    class Slow(Poisoned):
        def run(self, batch: Any, output: str | None = None) -> Any:
            gate.wait(20)
            return self._inner.run(batch, output)

    slow = Slow(load_encoder(spec), -1)  # type: ignore[arg-type]
    with open_engine([spec], path, load=lambda spec: slow) as engine, open_front(path) as front:
        front.wait_for_catalog()
        workers = slow.info.workers
        busy = [front.models.submit_blocking("tiny", EmbedRequest(Texts((f"busy {n}",))))[1] for n in range(workers)]
        until(lambda: slow.batches == 0 or engine.models.open_requests >= 1)
        _, gone = front.models.submit_blocking("tiny", EmbedRequest(Texts(("gone",)), terms=Terms(client="gone")))
        until(lambda: counters(engine.models.metrics.exposition())["fletcher_admission_admitted_total"] == workers + 1)
        assert gone.cancel()
        gate.set()
        for future in busy:
            future.result(20)
        until(lambda: engine.models.open_requests == 0)
        until(lambda: front.models.open_requests == 0)
        assert not front.link._sent  # the cancelled message, which gets no answer, is not kept


def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_models_are_exchanged_without_a_failed_request(
    spec: ModelSpec, path: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_artifact, copy)
    failures: list[BaseException] = []
    stop = threading.Event()

    with open_engine([spec], path) as engine, open_front(path, take_late=0.1) as front:
        front.wait_for_catalog()

        def load() -> None:
            while not stop.is_set():
                try:
                    assert len(ask(front, EmbedRequest(Texts(("a text",))))) == 1
                except BaseException as error:  # noqa: BLE001 (the test reports it)
                    failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(4):
            folder = copy if number % 2 == 0 else tiny_artifact
            engine.models.apply([ModelSpec(path=str(folder), name="tiny", provider="mlas", version=str(number + 2))])
            assert {version.spec.version for version in front.models.named[0].versions} == {str(number + 2)}
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_version_that_sleeps_wakes(spec: ModelSpec, path: Path) -> None:
    with open_engine([spec], path) as engine, open_front(path) as front:
        front.wait_for_catalog()
        (version,) = engine.models.named[0].versions
        version.sleep(1.0)
        assert version.engine is None
        assert len(ask(front, EmbedRequest(Texts(("a",))))) == 1
        assert version.engine is not None


def test_a_front_that_starts_after_the_folder_was_exchanged_uses_the_loaded_tokenizer(
    spec: ModelSpec, path: Path, tiny_artifact: Path, tmp_path: Path, encoder: Encoder
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_artifact, folder)
    expected = encoder.embed(TEXTS).vectors
    with open_engine([ModelSpec(path=str(folder), name="tiny", provider="mlas")], path):
        with open_front(path) as front:
            front.wait_for_catalog()
        (folder / "tokenizer.json").write_text("{}")
        with open_front(path) as front:
            front.wait_for_catalog()
            np.testing.assert_allclose(ask(front, EmbedRequest(Texts(tuple(TEXTS)))).vectors, expected, atol=1e-6)


def test_the_engines_cache_answers_rows_that_come_again(spec: ModelSpec, path: Path, encoder: Encoder) -> None:
    cached = ModelSpec(path=spec.path, name="tiny", provider="mlas", cache="1MiB")
    with open_engine([cached], path) as engine, open_front(path) as front:
        front.wait_for_catalog()
        expected = encoder.embed(TEXTS).vectors
        for _ in range(3):
            answer = ask(front, EmbedRequest(Texts((*TEXTS, "another")), EmbedOptions(dtype="float16")))
            np.testing.assert_allclose(answer.vectors[: len(TEXTS)], expected, atol=1e-3)
        np.testing.assert_allclose(ask(front, EmbedRequest(Texts(tuple(TEXTS)))).vectors, expected, atol=1e-6)
        counts = counters(engine.models.metrics.exposition())
        assert (
            counts["fletcher_vector_cache_hits_total"] == 5 + 5 + 4
        )  # different texts of each request after the first one
        assert counts["fletcher_vectors_processed_total"] == 5


def test_two_fronts_are_answered_each_with_its_own(engine: RowsServer, path: Path, encoder: Encoder) -> None:
    with open_front(path) as one, open_front(path) as two:
        one.wait_for_catalog()
        two.wait_for_catalog()
        texts = [f"text {number}" for number in range(100)]
        expected = encoder.embed(texts).vectors
        futures = [
            front.models.submit_blocking("tiny", EmbedRequest(Texts((text,))))[1]
            for text in texts
            for front in (one, two)
        ]
        answers = np.stack([future.result(20).vectors[0] for future in futures])
        np.testing.assert_allclose(answers[::2], expected, atol=1e-6)
        np.testing.assert_allclose(answers[1::2], expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_messages_leave_other_fronts_alone(front: Front, path: Path, encoder: Encoder, seed: int) -> None:
    chance = random.Random(seed)
    task = encoder.prepare(Texts(("hello", "world")))
    message = Rows(
        1, "tiny", "1", encoder.info.digest, None, None, 2, task.encodings.num_tokens, False, 1, "normal", "", None
    )
    good = b"".join(rows_frame(message, task.encodings))
    for _ in range(200):
        data = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with socket.socket(socket.AF_UNIX) as attacker:
            attacker.connect(str(path))
            attacker.sendall(bytes(data[: chance.randint(1, len(data))]))
    expected = encoder.embed(TEXTS).vectors
    np.testing.assert_allclose(ask(front, EmbedRequest(Texts(tuple(TEXTS)))).vectors, expected, atol=1e-6)


def test_a_message_with_wrong_ids_fails_alone(front: Front, path: Path, encoder: Encoder) -> None:
    """The ids of a front are checked by its tokenizer; a damaged front could send others."""
    task = encoder.prepare(Texts(("hello",)))
    wrong = task.encodings.ids.copy()
    wrong[1] = 10**6
    encodings = type(task.encodings)(wrong, task.encodings.offsets, task.encodings.dropped)
    message = Rows(
        1, "tiny", "1", encoder.info.digest, None, None, 1, encodings.num_tokens, False, 1, "normal", "", None
    )
    with socket.socket(socket.AF_UNIX) as attacker:
        attacker.connect(str(path))
        attacker.sendall(b"".join(rows_frame(message, encodings)) + b"".join(encode(message)))
        expected = encoder.embed(TEXTS).vectors
        np.testing.assert_allclose(ask(front, EmbedRequest(Texts(tuple(TEXTS)))).vectors, expected, atol=1e-6)


def test_the_counts_of_a_front_that_leaves_stay(engine: RowsServer, path: Path) -> None:
    for number in (1, 2):
        with open_front(path) as front:
            front.wait_for_catalog()
            for text in ("one text", "another text"):
                ask(front, EmbedRequest(Texts((text,))))
            page = counters(engine.models.metrics.exposition())
            assert page["fletcher_tokenization_duration_seconds_count"] == 2 * number
            assert page["fletcher_fronts"] == 1
            assert page["fletcher_front_requests"] == 0
        for _ in range(1000):
            page = counters(engine.models.metrics.exposition())
            if not page["fletcher_fronts"]:
                break
            time.sleep(0.01)
        assert page["fletcher_fronts"] == 0
        assert page["fletcher_tokenization_duration_seconds_count"] == 2 * number
        assert "fletcher_front_requests" not in page


def test_a_front_that_hangs_takes_part_in_a_scrape_with_its_last_counts(
    engine: RowsServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletcher.serve.fronts.channel.rows_server.PAGE_SECONDS", 0.2)
    with open_front(path) as front:
        front.wait_for_catalog()
        ask(front, EmbedRequest(Texts(("one text",))))
        assert counters(engine.models.metrics.exposition())["fletcher_tokenization_duration_seconds_count"] == 1
        release = threading.Event()
        front.loop.call_soon_threadsafe(release.wait, 20)
        try:
            assert counters(engine.models.metrics.exposition())["fletcher_tokenization_duration_seconds_count"] == 1
        finally:
            release.set()


def test_a_version_with_the_weight_0_answers_requests_that_name_it(
    spec: ModelSpec, path: Path, encoder: Encoder
) -> None:
    other = msgspec.structs.replace(spec, version="2", weight=0.0)
    shadow = msgspec.structs.replace(spec, version="3", shadow=True)
    with open_engine([spec, other, shadow], path), open_front(path) as front:
        front.wait_for_catalog()
        version, future = front.models.submit_blocking("tiny@2", EmbedRequest(Texts(("hello",))))
        assert version.spec.version == "2"
        np.testing.assert_allclose(future.result(20).vectors, encoder.embed(["hello"]).vectors, atol=1e-6)
        assert {front.models.pick("tiny").spec.version for _ in range(50)} == {"1"}
        with pytest.raises(UnknownModelError):
            front.models.submit_blocking("tiny@3", EmbedRequest(Texts(("hello",))))
