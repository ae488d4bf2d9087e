"""Ends of the channel that do not read: what waits for them is bounded, others are answered, and nothing is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.runtime import Encoder, Encodings
from fletcher.runtime.artifact.outputs import BY_TOKEN
from fletcher.runtime.errors import FailingError, OverloadedError
from fletcher.runtime.inputs import Texts
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.terms import Terms
from fletcher.serve.fronts.channel import frames
from fletcher.serve.fronts.channel.rows_server import RowsServer
from fletcher.serve.fronts.channel.wire import PREFIX, Message, Rows, Values, decode_header, rows_frame, values_of
from fletcher.serve.fronts.front.backend import FrontBackend
from fletcher.serve.models.spec import ModelSpec

from .pair import Front, open_engine, open_front

SECONDS = 30.0
#: Graph's output with a vector for each token.
OUTPUT = "token_states"
#: Limit in these tests. Messages are smaller than half of it, and sockets hold some hundred kilobytes in addition.
LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_WAITING", LIMIT)


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Unix socket's path, which must be short."""
    return tmp_path_factory.mktemp("c") / "rows"


@pytest.fixture
def engine(tiny_artifact: Path, path: Path) -> Iterator[RowsServer]:
    spec = ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0)
    with open_engine([spec], path) as server:
        yield server


@pytest.fixture(scope="module")
def token_states(tiny_artifact: Path) -> tuple[Encodings, Any]:
    """Texts as token ids, and a vector for each token, by the encoder in this process."""
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        texts = tuple(f"a text of many words {number}" for number in range(200))
        task = encoder.prepare(Texts(texts), output="token_vectors")
        assert task.output == OUTPUT and task.rows == BY_TOKEN
        return task.encodings, encoder.compute(task.encodings, task.output)


def until(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class RawFront:
    """A front that sends rows and reads only when `read` is called."""

    def __init__(self, path: Path, engine: RowsServer, encodings: Any) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        until(lambda: engine._versions)
        self._encodings, self._version = encodings, next(iter(engine._versions))
        self.sent = 0

    def send(self) -> None:
        """Send a message whose answer has a vector for each token."""
        self.sent += 1
        message = Rows(
            id=self.sent,
            model=self._version[0],
            version=self._version[1],
            digest=self._version[2],
            output=OUTPUT,
            value_rows=BY_TOKEN,
            rows=len(self._encodings),
            tokens=self._encodings.num_tokens,
            has_types=self._encodings.token_types is not None,
            requests=1,
            priority="interactive",
            client="",
            seconds=None,
        )
        self._socket.sendall(b"".join(rows_frame(message, self._encodings)))

    def read(self) -> tuple[Message, bytes]:
        """Read a message."""
        header, _, size = PREFIX.unpack(self._file.read(PREFIX.size))
        message = decode_header(self._file.read(header))
        self._file.read(-(PREFIX.size + header) % 8)
        return message, self._file.read(size)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def send_many(raw: RawFront, count: int) -> None:
    """Send messages until the connection ends."""
    with contextlib.suppress(OSError):
        for _ in range(count):
            raw.send()


def test_a_front_that_does_not_read_is_not_read_and_holds_nobody_up(
    engine: RowsServer, path: Path, token_states: tuple[Encodings, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings, expected = token_states
    raw = RawFront(path, engine, encodings)
    until(lambda: len(engine._fronts) == 1)
    (slow,) = engine._fronts
    read: list[int] = []
    compute = engine.compute

    def record(connection: Any, message: Rows, payload: memoryview) -> None:
        compute(connection, message, payload)
        if connection is slow:
            read.append(message.id)

    monkeypatch.setattr(engine, "compute", record)
    assert expected.nbytes < LIMIT / 2

    def waiting() -> int:
        transport = slow.protocol.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    while not slow.protocol.congested:
        number = raw.sent + 1
        raw.send()
        until(lambda number=number: number in read and not slow.open)
        assert raw.sent < 100
    answered = raw.sent
    assert answered * expected.nbytes > waiting() > LIMIT
    sender = threading.Thread(target=send_many, args=(raw, 100))
    sender.start()
    time.sleep(0.5)
    assert read == list(range(1, answered + 1))  # nothing more is read
    assert sender.is_alive()
    held = waiting()
    with open_front(path) as other:
        other.wait_for_catalog()
        for number in range(20):
            answer = other.models.submit_blocking("tiny", EmbedRequest(Texts((f"text {number}",))))[1].result(SECONDS)
            assert len(answer) == 1
    assert waiting() == held  # a catalog or a page aside, the slow front costs nothing more

    numbers: list[int] = []
    while len(numbers) < answered + 100:
        message, payload = raw.read()
        if isinstance(message, Values):
            numbers.append(message.id)
            np.testing.assert_allclose(values_of(message, memoryview(payload)), expected, atol=1e-5)
    assert sorted(numbers) == list(range(1, answered + 101))
    sender.join()
    until(lambda: not slow.protocol.congested)  # the engine notes it when its loop has written the last bytes
    raw.close()
    until(lambda: not engine._fronts)


def test_a_congested_front_that_ends_is_forgotten(
    engine: RowsServer, path: Path, token_states: tuple[Encodings, Any]
) -> None:
    raw = RawFront(path, engine, token_states[0])
    until(lambda: len(engine._fronts) == 1)
    (slow,) = engine._fronts
    threading.Thread(target=send_many, args=(raw, 400), daemon=True).start()
    until(lambda: slow.protocol.congested)
    raw._socket.shutdown(socket.SHUT_RDWR)
    raw.close()
    until(lambda: not engine._fronts)


def test_an_engine_that_does_not_read_lets_a_front_refuse(
    engine: RowsServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_front(path) as front:
        front.wait_for_catalog()
        _ask(front, 1).result(SECONDS)
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            release.wait(SECONDS)

        engine.loop.call_soon_threadsafe(hold)  # the engine process's loop hangs
        assert held.wait(SECONDS)
        futures = []
        with pytest.raises(OverloadedError, match="Retry after 1 s") as caught:
            for _ in range(100_000):
                futures.append(_ask(front, 500))
        assert caught.value.retry_after == 1.0
        stream = _send_part(front, 0)  # a stream is never refused
        assert not any(future.done() for future in futures)
        release.set()
        assert len(stream.result(SECONDS)) == 500
        for future in futures:
            try:
                assert len(future.result(SECONDS)) == 500
            except OverloadedError:  # the engine's own queue is full
                continue
        until(lambda: not front.link._protocol.congested)  # type: ignore[union-attr]
        assert len(_ask(front, 1).result(SECONDS)) == 1


def test_a_front_without_an_engine_refuses_by_another_error(path: Path) -> None:
    with open_front(path) as front, pytest.raises(FailingError):
        front.link.check(Terms())


def _ask(front: Front, count: int) -> Any:
    texts = tuple(f"a text of many words {number}" for number in range(count))
    return front.models.submit_blocking("tiny", EmbedRequest(Texts(texts)))[1]


def test_a_front_whose_tokenizer_is_behind_refuses_long_requests(
    engine: RowsServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    prepare = FrontBackend.prepare

    def slowly(self: FrontBackend, inputs: Any, *arguments: Any) -> Any:
        assert len(inputs.texts) == 1 or release.wait(SECONDS)
        return prepare(self, inputs, *arguments)

    monkeypatch.setattr(FrontBackend, "prepare", slowly)
    with open_front(path, max_queue_tokens=50_000) as front:
        front.wait_for_catalog()
        largest = _ask(front, 6000)  # more than the limit, and nothing waits
        futures = []
        with pytest.raises(
            OverloadedError, match=r"tokenizer is overloaded: \d+ tokens wait.* Retry after 1 s"
        ) as caught:
            for _ in range(100):
                futures.append(_ask(front, 500))
        assert caught.value.retry_after == 1.0
        # Each counts for 4,096 tokens (`LEAST_COUNTED`). A client that has some waiting may fill three quarters of the limit.
        # Two threads have taken a request each out of the queue, at once or a moment later.
        assert 50_000 * 0.75 // 4096 - 1 <= len(futures) <= 50_000 * 0.75 // 4096 + 1
        other = EmbedRequest(Texts(("a text of many words",) * 500), terms=Terms(client="another"))
        futures.append(front.models.submit_blocking("tiny", other)[1])  # the rest of the limit is for others
        futures += [_send_part(front, number) for number in range(20)]  # streams are never refused
        assert len(_ask(front, 1).result(SECONDS)) == 1  # a short request is tokenized at once
        page = front.models.metrics.exposition().decode()
        assert 'fletcher_admission_refused_total{reason="overloaded"} 1.0' in page
        release.set()
        assert len(largest.result(SECONDS)) == 6000
        for future in futures:
            assert len(future.result(SECONDS)) == 500
        assert len(_ask(front, 500).result(SECONDS)) == 500


def _send_part(front: Front, number: int) -> Any:
    terms = Terms(stream="the stream", part=number)
    request = EmbedRequest(Texts(("a text of many words",) * 500), terms=terms)
    return front.models.submit_blocking("tiny", request)[1]
