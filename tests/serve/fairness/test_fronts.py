"""Fairness with front processes: the identity of clients and the order of streams travel with the rows to the engine."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.runtime import Encoder
from fletcher.runtime.inputs import Texts
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.terms import Terms
from fletcher.serve.fronts.channel.rows_server import RowsServer
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.surroundings import load_encoder

from ..fronts.channel.pair import Front, open_engine, open_front
from .floods import Reference, p99

SECONDS = 60.0
TOLERANCE = 1e-6
TEXTS = [f"text number {number} {'and more ' * (number % 3)}" for number in range(2048)]


class Timed:
    """An encoder that takes at least a fixed time for each token.

    Attributes:
        seconds: seconds of each batch.
    """

    def __init__(self, inner: Encoder, seconds_per_token: float) -> None:
        self._inner = inner
        self._seconds_per_token = seconds_per_token
        self.info = inner.info
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, batch: Any, output: str | None = None) -> Any:
        started = time.perf_counter()
        values = self._inner.run(batch, output)
        time.sleep(max(batch.num_tokens * self._seconds_per_token - (time.perf_counter() - started), 0.0))
        self.seconds.append(time.perf_counter() - started)
        return values


@pytest.fixture(scope="module")
def reference(tiny_artifact: Path) -> Reference:
    """The vectors of the encoder in this process."""
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        return Reference(TEXTS, encoder.embed(TEXTS).vectors, TOLERANCE)


@pytest.fixture
def timed(tiny_artifact: Path) -> Timed:
    encoder = load_encoder(ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0, workers=1))
    assert isinstance(encoder, Encoder)
    return Timed(encoder, 0.04 / encoder.info.token_budget)


@pytest.fixture
def engine(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory, timed: Timed) -> Iterator[RowsServer]:
    spec = ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0, workers=1)
    path = tmp_path_factory.mktemp("f") / "rows"
    with open_engine([spec], path, load=lambda spec: timed) as server:
        yield server


@pytest.fixture
def front(engine: RowsServer) -> Iterator[Front]:
    with open_front(engine._path) as front:
        front.wait_for_catalog()
        yield front


def submit(front: Front, texts: list[str], terms: Terms) -> Any:
    return front.models.submit_blocking("tiny", EmbedRequest(Texts(tuple(texts)), terms=terms))[1]


def test_the_parts_of_a_stream_are_answered_in_order_as_soon_as_they_are_computed(
    front: Front, reference: Reference
) -> None:
    terms = Terms(client="a").as_stream("bulk")
    started, answered, futures = time.perf_counter(), [], []
    for part in range(4):
        texts, right = reference.part(512 * part, 512)
        future = submit(front, texts * 2, terms.at(part))
        future.add_done_callback(lambda future: answered.append(time.perf_counter() - started))
        futures.append((future, np.concatenate([right, right])))
    for future, right in futures:
        reference.check(future.result(SECONDS).vectors, right)
    assert answered[0] <= 0.35 * answered[-1], answered


@pytest.mark.heavy
def test_single_texts_are_answered_during_another_clients_streams(
    front: Front, engine: RowsServer, timed: Timed, reference: Reference
) -> None:
    stopped = threading.Event()
    errors: list[BaseException] = []

    def flood(number: int) -> None:
        try:
            terms, part, waiting = Terms(client="flood").as_stream("bulk"), 0, []
            while not stopped.is_set():
                texts, right = reference.part(1000 * number + 512 * part, 512)
                waiting.append((submit(front, texts, terms.at(part)), right))
                part += 1
                if len(waiting) > 2:
                    future, right = waiting.pop(0)
                    reference.check(future.result(SECONDS).vectors, right)
            for future, right in waiting:
                reference.check(future.result(SECONDS).vectors, right)
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            errors.append(error)

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        while len(timed.seconds) < 5 and not errors:
            time.sleep(0.01)
        seconds, before = [], len(timed.seconds)
        for number in range(40):
            (text,), right = reference.part(37 * number, 1)
            started = time.perf_counter()
            answer = submit(front, [text], Terms(client="single")).result(SECONDS)
            seconds.append(time.perf_counter() - started)
            reference.check(answer.vectors, right)
        batch = statistics.median(timed.seconds[before:])
    finally:
        stopped.set()
        for thread in threads:
            thread.join(SECONDS)
    assert not errors
    assert p99(seconds) <= 5 * batch, (p99(seconds), batch)
    (version,) = engine.models.named[0].versions
    assert version.engine is not None and version.engine.open_requests == 0
