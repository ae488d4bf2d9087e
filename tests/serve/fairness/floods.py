"""Floods: indexing jobs of one client over HTTP and Flight, beside another client with single texts. Vectors are checked."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
from numpy.typing import NDArray

__all__ = ["FLOODS", "Flood", "Reference", "Target", "ask_single_texts", "flooding", "p99"]

SECONDS = 120.0

#: Addresses of two clients. The loopback has all of 127.0.0.0/8.
FLOODING, SINGLE = "127.0.0.2", "127.0.0.3"

LIST_TEXTS, FLIGHT_ROWS, NDJSON_LINES = 2048, 4096, 4096


@dataclass(frozen=True, slots=True)
class Reference:
    """Texts and their vectors, from a reference.

    Attributes:
        texts: different texts.
        vectors: their vectors, float32, (n, dimension).
        tolerance: largest difference of an element.
    """

    texts: list[str]
    vectors: NDArray[np.float32]
    tolerance: float = 0.0

    def part(self, start: int, count: int) -> tuple[list[str], NDArray[np.float32]]:
        """Return texts and their vectors, from a place on; the first text follows the last one."""
        rows = np.arange(start, start + count) % len(self.texts)
        return [self.texts[row] for row in rows.tolist()], self.vectors[rows]

    def check(self, received: NDArray[np.float32], right: NDArray[np.float32]) -> None:
        """Compare vectors with those of the reference."""
        assert received.shape == right.shape
        np.testing.assert_allclose(received, right, rtol=0, atol=self.tolerance)


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the reference of its model.

    Attributes:
        model: name of the model.
        http, flight: addresses of the server.
        reference: texts and their vectors.
        keys: keys of the client that floods and of the other one; empty if the two have addresses of their own instead.
    """

    model: str
    http: str
    flight: str
    reference: Reference
    keys: tuple[str, str] = ("", "")

    def client(self, *, floods: bool) -> httpx.Client:
        """Return an HTTP client of the one that floods, or of the other one."""
        key = self.keys[0 if floods else 1]
        if key:
            return httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=SECONDS)
        address = FLOODING if floods else SINGLE
        return httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=SECONDS)

    @property
    def flood_options(self) -> fl.FlightCallOptions:
        """Return the options of a Flight call of the client that floods."""
        headers = [(b"authorization", f"Bearer {self.keys[0]}".encode())] if self.keys[0] else []
        return fl.FlightCallOptions(headers=headers)


@dataclass
class Flood:
    """A flood in progress: the rows that were answered, and the errors of its threads."""

    stopped: threading.Event = field(default_factory=threading.Event)
    rows: int = 0
    refused: int = 0
    errors: list[BaseException] = field(default_factory=list)

    def run(self, work: Callable[[Target, Flood, int], None], target: Target, number: int) -> None:
        try:
            work(target, self, number)
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.errors.append(error)


def _vectors(rows: list[str]) -> NDArray[np.float32]:
    return np.stack([np.frombuffer(base64.b64decode(row), np.float32) for row in rows])


def lists(target: Target, flood: Flood, number: int) -> None:
    """Send lists of 2,048 texts to `/v1/embeddings`, one after the other. A list that is refused is sent again."""
    start = 1000 * number
    with target.client(floods=True) as client:
        while not flood.stopped.is_set():
            texts, right = target.reference.part(start, LIST_TEXTS)
            body = {"model": target.model, "input": texts, "encoding_format": "base64"}
            response = client.post(f"{target.http}/v1/embeddings", json=body)
            if response.status_code == 429:
                assert float(response.headers["retry-after"]) >= 1
                flood.refused += 1
                time.sleep(0.05)
                continue
            assert response.status_code == 200, response.text
            assert response.headers["x-priority"] == "bulk"
            target.reference.check(_vectors([item["embedding"] for item in response.json()["data"]]), right)
            flood.rows += LIST_TEXTS
            start += LIST_TEXTS


def ndjson(target: Target, flood: Flood, number: int) -> None:
    """Send 4,096 texts in a request, and read the answers line by line."""
    start = 1000 * number
    headers = {"accept": "application/x-ndjson"}
    with target.client(floods=True) as client:
        while not flood.stopped.is_set():
            texts, right = target.reference.part(start, NDJSON_LINES)
            body = {"model": target.model, "input": texts, "encoding_format": "base64"}
            rows: list[str] = []
            with client.stream("POST", f"{target.http}/v1/embeddings", json=body, headers=headers) as response:
                assert response.status_code == 200, response.read()
                assert response.headers["x-priority"] == "bulk"
                for line in response.iter_lines():
                    item = json.loads(line)
                    if item["object"] == "embedding":
                        rows.append(item["embedding"])
                        flood.rows += 1
                    else:
                        assert item["object"] == "end", item
                    if flood.stopped.is_set():
                        break
            target.reference.check(_vectors(rows), right[: len(rows)])
            start += NDJSON_LINES


def flight(target: Target, flood: Flood, number: int) -> None:
    """Write batches of 4,096 rows to one `DoExchange` stream without a pause, and read the answers. At the end, cancel it."""
    schema = pa.schema([("text", pa.string())])
    with fl.connect(target.flight) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), target.flood_options)

        def write() -> None:
            start = 1000 * number
            with contextlib.suppress(pa.ArrowException, fl.FlightError):  # the stream was cancelled
                writer.begin(schema)
                while not flood.stopped.is_set():
                    texts, _ = target.reference.part(start, FLIGHT_ROWS)
                    writer.write_batch(pa.RecordBatch.from_pydict({"text": texts}, schema))
                    start += FLIGHT_ROWS

        def cancel() -> None:
            flood.stopped.wait()
            reader.cancel()

        threads = [threading.Thread(target=work) for work in (write, cancel)]
        for thread in threads:
            thread.start()
        read = 1000 * number
        try:
            while True:
                chunk = reader.read_chunk()
                texts, right = target.reference.part(read, len(chunk.data))
                assert chunk.data["text"].to_pylist() == texts
                target.reference.check(np.stack(chunk.data["vector"].to_numpy(zero_copy_only=False)), right)
                flood.rows += len(texts)
                read += FLIGHT_ROWS
        except (pa.ArrowException, fl.FlightError):
            if not flood.stopped.is_set():
                raise
        finally:
            flood.stopped.set()
            for thread in threads:
                thread.join(SECONDS)
            with contextlib.suppress(pa.ArrowException, fl.FlightError):
                writer.close()


#: Kinds of floods: the work of one thread, and the number of threads.
FLOODS: dict[str, tuple[Callable[[Target, Flood, int], None], int]] = {
    "lists": (lists, 4),
    "ndjson": (ndjson, 4),
    "flight": (flight, 4),
}


@contextmanager
def flooding(kind: str, target: Target, begun: Callable[[Flood], bool]) -> Iterator[Flood]:
    """Flood a server; the block begins as soon as `begun` is true. At its end, raise the first error of the flood."""
    work, count = FLOODS[kind]
    flood = Flood()
    threads = [threading.Thread(target=flood.run, args=(work, target, number)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + SECONDS
        while not flood.errors and not begun(flood):
            assert time.monotonic() < deadline, "the flood does not begin"
            time.sleep(0.01)
        yield flood
    finally:
        flood.stopped.set()
        for thread in threads:
            thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    if flood.errors:
        raise flood.errors[0]


def ask_single_texts(target: Target, count: int) -> list[float]:
    """Send single texts of another client, one after the other. Every one must be answered with its vector.

    Returns:
        Seconds of each request.
    """
    seconds = []
    with target.client(floods=False) as client:
        for number in range(count):
            texts, right = target.reference.part(37 * number, 1)
            started = time.perf_counter()
            body = {"model": target.model, "input": texts[0], "encoding_format": "base64"}
            response = client.post(f"{target.http}/v1/embeddings", json=body)
            seconds.append(time.perf_counter() - started)
            assert response.status_code == 200, (number, response.text)
            assert "x-priority" not in response.headers
            target.reference.check(_vectors([response.json()["data"][0]["embedding"]]), right)
    return seconds


def p99(seconds: list[float]) -> float:
    """Return the value that 99 of 100 do not exceed."""
    return sorted(seconds)[int(0.99 * len(seconds)) - 1]
