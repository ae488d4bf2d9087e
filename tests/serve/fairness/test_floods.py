"""Many clients on one server: a flood of one client does not delay another one, and streams are answered in order."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..engine.test_engine import wait_for
from .floods import FLOODS, Target, ask_single_texts, flooding, p99
from .timed_encoder import TimedEncoder, reference

pytestmark = pytest.mark.heavy  # by the seconds that it waits

SECONDS = 60.0
REFERENCE = reference(8192)

#: Seconds of a full batch of 1,024 tokens.
BATCH_SECONDS = 0.05


@pytest.fixture
def encoder() -> TimedEncoder:
    return TimedEncoder(token_budget=1024, seconds_per_batch=BATCH_SECONDS)


@pytest.fixture
def server(encoder: TimedEncoder) -> Iterator[Server]:
    """A server whose queue holds one second of work. All of a flood together is more."""
    options = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", queue_seconds=1.0, drain_seconds=10)
    with Server(encoder, options) as running:
        yield running


@pytest.fixture
def target(server: Server) -> Target:
    return Target("fake-model", str(server.addresses.http), str(server.addresses.flight), REFERENCE)


@pytest.fixture
def keyed_target(encoder: TimedEncoder, tmp_path: Path) -> Iterator[tuple[Server, Target]]:
    """A server whose two clients have keys, and the same address."""
    keys = tmp_path / "keys.json"
    pair = add_key(keys, "ann"), add_key(keys, "bob")
    options = ServerOptions(
        http="127.0.0.1:0", flight="127.0.0.1:0", queue_seconds=1.0, drain_seconds=10, keys=str(keys)
    )
    with Server(encoder, options) as running:
        addresses = running.addresses
        yield running, Target("fake-model", str(addresses.http), str(addresses.flight), REFERENCE, pair)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", FLOODS)
def test_single_texts_are_answered_during_another_clients_flood(
    keyed_target: tuple[Server, Target], encoder: TimedEncoder, kind: str
) -> None:
    server, target = keyed_target
    with flooding(kind, target, lambda flood: len(encoder.seconds) >= 5):
        before = len(encoder.seconds)
        seconds = ask_single_texts(target, 40)
        batch = statistics.median(encoder.seconds[before:])
    assert batch > BATCH_SECONDS / 2, "the flood stood still"
    assert p99(seconds) <= 5 * batch, (p99(seconds), batch)
    wait_for(lambda: server.engine.open_requests == 0)  # the clients have left
    admission = server.engine.admission
    assert (admission.tokens, admission.memory, admission.shares.counted) == (0, 0, 0)


def batches_of(count: int, rows: int) -> list[pa.RecordBatch]:
    return [pa.RecordBatch.from_pydict({"text": REFERENCE.part(rows * number, rows)[0]}) for number in range(count)]


def test_the_batches_of_a_flight_stream_are_answered_in_order_as_soon_as_they_are_computed(target: Target) -> None:
    batches = batches_of(4, 1024)
    with fl.connect(target.flight) as client:
        writer, reader = client.do_exchange(
            fl.FlightDescriptor.for_path("embed"), fl.FlightCallOptions(timeout=SECONDS)
        )
        started, answered = time.perf_counter(), []
        with writer:
            writer.begin(batches[0].schema)
            for batch in batches:
                writer.write_batch(batch)
            writer.done_writing()
            for number, chunk in enumerate(reader):
                answered.append(time.perf_counter() - started)
                right = REFERENCE.part(1024 * number, 1024)[1]
                REFERENCE.check(np.stack(chunk.data["vector"].to_numpy(zero_copy_only=False)), right)
    assert len(answered) == 4
    assert answered[0] <= 0.35 * answered[-1], answered


def test_the_lines_of_an_ndjson_stream_come_as_soon_as_they_are_computed(target: Target) -> None:
    texts = REFERENCE.part(0, 2048)[0]
    started, answered = time.perf_counter(), []
    body, headers = {"model": "fake-model", "input": texts}, {"accept": "application/x-ndjson"}
    with httpx.stream("POST", f"{target.http}/v1/embeddings", json=body, headers=headers, timeout=SECONDS) as response:
        for line in response.iter_lines():
            answered.append((time.perf_counter() - started, line))
    assert len(answered) == 2049
    assert answered[0][0] <= 0.35 * answered[-1][0]


def test_the_answer_says_that_a_request_is_bulk_unless_it_names_its_class(target: Target) -> None:
    def answer(count: int, **headers: str) -> str | None:
        body = {"model": "fake-model", "input": REFERENCE.part(0, count)[0]}
        response = httpx.post(f"{target.http}/v1/embeddings", json=body, headers=headers, timeout=SECONDS)
        assert response.status_code == 200
        priority: str | None = response.headers.get("x-priority")
        return priority

    assert answer(256) is None
    assert answer(257) == "bulk"
    assert answer(257, **{"x-priority": "interactive"}) is None
    assert answer(1, accept="application/x-ndjson") == "bulk"
    assert answer(1, accept="application/x-ndjson", **{"x-priority": "normal"}) is None


class Watch(fl.ClientMiddleware):  # type: ignore[misc]
    """Middleware that keeps the headers of the answer."""

    def __init__(self, seen: list[dict[str, list[str]]]) -> None:
        self._seen = seen

    def received_headers(self, headers: dict[str, list[str]]) -> None:
        self._seen.append(headers)


class WatchFactory(fl.ClientMiddlewareFactory):  # type: ignore[misc]
    """Factory of `Watch`."""

    def __init__(self, seen: list[dict[str, list[str]]]) -> None:
        self._seen = seen

    def start_call(self, info: object) -> Watch:
        return Watch(self._seen)


@pytest.mark.parametrize(("named", "answered"), [(None, ["bulk"]), ("interactive", None)])
def test_the_answer_says_that_a_flight_stream_is_bulk_unless_it_names_its_class(
    target: Target, named: str | None, answered: list[str] | None
) -> None:
    seen: list[dict[str, list[str]]] = []
    headers = [] if named is None else [(b"x-priority", named.encode())]
    (batch,) = batches_of(1, 2)
    with fl.connect(target.flight, middleware=[WatchFactory(seen)]) as client:
        options = fl.FlightCallOptions(timeout=SECONDS, headers=headers)
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            assert reader.read_all().num_rows == 2
    assert seen[0].get("x-priority") == answered


def test_a_first_batch_of_65536_rows_is_admitted_while_others_wait() -> None:
    encoder = TimedEncoder(token_budget=8192, seconds_per_batch=0.0)
    encoder.gate.clear()
    sizes = (4096, 65_536, 4096)
    streams = []
    with (
        Server(encoder, ServerOptions(http="off", flight="127.0.0.1:0")) as server,
        fl.connect(str(server.addresses.flight)) as client,
    ):
        for count, rows in enumerate(sizes, start=1):
            writer, reader = client.do_exchange(
                fl.FlightDescriptor.for_path("embed"), fl.FlightCallOptions(timeout=SECONDS)
            )
            writer.begin(pa.schema([("text", pa.string())]))
            writer.write_batch(batches_of(1, rows)[0])
            writer.done_writing()
            streams.append((writer, reader))
            wait_for(lambda count=count: server.engine.open_requests == count)  # type: ignore[misc]
        assert server.engine.admission.parked.count == 0
        encoder.gate.set()
        for (writer, reader), rows in zip(streams, sizes, strict=True):
            vectors = np.stack(reader.read_all()["vector"].to_numpy())
            REFERENCE.check(vectors, REFERENCE.part(0, rows)[1])
            writer.close()
