"""Clients of the soak test. Each one runs on its own thread until the event is set, and compares every vector."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from .reference import Ledger, Reference

__all__ = ["Clients", "Door"]

SECONDS = 60.0

#: Texts of an NDJSON request, and of a batch of a Flight stream.
LINES, BATCH = 1500, 64

#: Connections and texts of a burst: about ten times what the queue takes.
BURST, BURST_TEXTS = 120, 256

#: Program of a client that sends requests, says so, and then waits to be killed.
VICTIM = """
import socket, sys, time
host, port, body = "127.0.0.1", int(sys.argv[1]), sys.stdin.buffer.read()
head = b"POST /v1/embeddings HTTP/1.1\\r\\nhost: localhost\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)
opened = [socket.create_connection((host, port)) for _ in range(8)]
for number, connection in enumerate(opened):
    connection.sendall(head + (body if number % 2 else body[: len(body) // 2]))
print("sent", flush=True)
time.sleep(60)
"""


@dataclass(frozen=True, slots=True)
class Door:
    """How clients get into a server with TLS and signed tokens.

    Attributes:
        ca: certificate of the CA in PEM.
        token: returns a token for a name and a scope.
        renewed: requests after which a client takes a new connection and a new token.
    """

    ca: str
    token: Callable[[str, str], str]
    renewed: int = 50

    @property
    def trust(self) -> ssl.SSLContext:
        """Context of a client of HTTP."""
        return ssl.create_default_context(cadata=self.ca)


@dataclass(frozen=True, slots=True)
class Clients:
    """What all clients share.

    Attributes:
        port: port of HTTP.
        flight: address of Flight.
        reference: texts and their vectors.
        ledger: receives the outcomes.
        stop: ends the clients.
        door: TLS and tokens, or None for a server without them.
        haste: divides the pauses between requests.
    """

    port: int
    flight: str
    reference: Reference
    ledger: Ledger
    stop: threading.Event
    door: Door | None = None
    haste: float = 1.0

    def lists(self, chance: random.Random, size: int) -> None:
        """Send lists of texts over a connection that is kept, or renewed together with the token."""
        connection, headers, sent = self.connect(), self.headers(), 0
        while not self._pause(chance, 0.1):
            if self.door is not None and sent >= self.door.renewed:
                connection.close()
                connection, headers, sent = self.connect(), self.headers(f"client-{chance.random()}"), 0
            sent += 1
            numbers, began = self.reference.choose(chance, size), time.monotonic()
            try:
                connection.request("POST", "/v1/embeddings", self._body(numbers), headers)
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.ledger.note(f"list {size}", began, "broken", repr(error))
                self.stop.wait(0.1)
                continue
            self._judge(f"list {size}", began, numbers, answer.status, dict(answer.getheaders()), data)
        connection.close()

    def ndjson(self, chance: random.Random, *, slow: bool = False) -> None:
        """Send long lists whose answer is a stream; a slow client reads a few bytes a second for a while."""
        kind = "slow" if slow else "ndjson"
        while not self._pause(chance, 0.5):
            numbers, began = self.reference.choose(chance, LINES), time.monotonic()
            body = self._body(numbers, "float" if slow else "base64")
            connection = self.connect()
            data, complete = b"", False
            try:
                connection.connect()
                if slow:
                    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.request("POST", "/v1/embeddings", body, self.headers() | {"accept": "application/x-ndjson"})
                answer = connection.getresponse()
                if slow:
                    data = self._trickle(answer, chance)
                data += answer.read()
                complete = True
            except http.client.IncompleteRead as error:
                data += error.partial
            except (OSError, http.client.HTTPException) as error:
                self.ledger.note(kind, began, "broken", repr(error))
                continue
            finally:
                connection.close()
            if answer.status == 200:
                self._judge_lines(kind, began, numbers, data, complete)
            elif complete:
                self._judge(kind, began, numbers, answer.status, dict(answer.getheaders()), data)
            else:
                self.ledger.note(kind, began, "broken")

    def streams(self, chance: random.Random) -> None:
        """Send streams over Flight."""
        while not self._pause(chance, 0.3):
            began, parts = time.monotonic(), [self.reference.choose(chance, BATCH) for _ in range(6)]
            try:
                answers = self._exchange(parts)
            except (pa.ArrowException, fl.FlightError, OSError) as error:
                overloaded = "overloaded" in str(error)
                internal = isinstance(error, fl.FlightInternalError | fl.FlightServerError)
                if internal and "closed" not in str(error) and "reset" not in str(error).lower():
                    self.ledger.fail(f"flight: {error}")
                self.ledger.note("flight", began, "overloaded" if overloaded else "broken", str(error)[:300])
                self.stop.wait(0.2)
                continue
            for numbers, vectors in zip(parts, answers, strict=True):
                self._compare("flight", numbers, vectors)
            self.ledger.note("flight", began, "ok")

    def leave(self, chance: random.Random) -> None:
        """Start clients that are killed in the middle of their requests."""
        while not self.stop.wait(1.0 + chance.random()):
            body = self._body(self.reference.choose(chance, 64))
            command = [sys.executable, "-S", "-E", "-c", VICTIM, str(self.port)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
                assert victim.stdin is not None and victim.stdout is not None
                victim.stdin.write(body)
                victim.stdin.close()
                victim.stdout.readline()
                victim.kill()

    def never_read(self, chance: random.Random) -> None:
        """Send requests whose answers are never read, and hold the connections for some seconds."""
        while not self.stop.wait(chance.random()):
            body = self._body(self.reference.choose(chance, 256), "float")
            opened = []
            try:
                for _ in range(4):
                    connection = socket.socket()
                    opened.append(connection)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    connection.settimeout(2.0)
                    connection.connect(("127.0.0.1", self.port))
                    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
                    connection.sendall((head + body) * 3)
            except OSError:
                pass  # the server does not read further requests of a client that does not read its answers
            self.stop.wait(3.0)
            for connection in opened:
                connection.close()

    def burst(self, chance: random.Random) -> None:
        """Send about ten times what the queue takes, at once."""
        numbers, began = self.reference.choose(chance, BURST_TEXTS), time.monotonic()
        body = self._body(numbers)
        request = b"POST /v1/embeddings HTTP/1.0\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        waiting: dict[socket.socket, bytearray] = {}
        with selectors.DefaultSelector() as selector:
            for _ in range(BURST):
                try:
                    connection = socket.create_connection(("127.0.0.1", self.port), SECONDS)
                    connection.sendall(request)
                except OSError:
                    self.ledger.note("burst", began, "broken")
                    continue
                waiting[connection] = bytearray()
                selector.register(connection, selectors.EVENT_READ)
            end = time.monotonic() + SECONDS
            while waiting and time.monotonic() < end:
                for key, _ in selector.select(0.5):
                    connection = key.fileobj  # type: ignore[assignment]
                    try:
                        part = connection.recv(1 << 18)
                    except OSError:
                        part = b""
                    waiting[connection] += part
                    if part:
                        continue
                    selector.unregister(connection)
                    connection.close()
                    self._judge_message("burst", began, numbers, bytes(waiting.pop(connection)))
            for connection in waiting:
                self.ledger.fail(f"a request of a burst was not answered within {SECONDS} s")
                connection.close()

    def swap(self, path: Path) -> None:
        """Exchange the model by another one. Nothing may fail."""
        body = json.dumps({"path": str(path), "name": "tiny", "provider": "mlas"})
        status, data = self.call("POST", "/admin/models", body, {"content-type": "application/json"})
        if status not in (200, 201):
            self.ledger.fail(f"an exchange: {status} {data[:300]!r}")

    def call(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Send one request of an administrator, and return its status and body."""
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers("operator", "admin") | (headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        if self.door is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=SECONDS, context=self.door.trust)

    def headers(self, name: str = "client", scope: str = "embed") -> dict[str, str]:
        """Return the headers of a client."""
        return {} if self.door is None else {"authorization": f"Bearer {self.door.token(name, scope)}"}

    def _pause(self, chance: random.Random, longest: float) -> bool:
        """Wait between two requests; return whether the client shall end."""
        return self.stop.wait(chance.random() * longest / self.haste)

    # Answers ------------------------------------------------------------------------------------------------------------

    def _body(self, numbers: Sequence[int], encoding: str = "base64") -> bytes:
        texts = [self.reference.texts[number] for number in numbers]
        return json.dumps({"model": "tiny", "input": texts, "encoding_format": encoding}).encode()

    def _trickle(self, answer: http.client.HTTPResponse, chance: random.Random) -> bytes:
        data = b""
        for _ in range(chance.randint(10, 60)):
            data += answer.read(16)
            if self.stop.wait(0.1):
                break
        return data

    def _exchange(self, parts: Sequence[Sequence[int]]) -> list[Any]:
        """Send a stream, and return the vectors of each batch."""
        answers = []
        headers = [(name.encode(), value.encode()) for name, value in self.headers().items()]
        options = fl.FlightCallOptions(timeout=SECONDS, headers=headers)
        trust = {} if self.door is None else {"tls_root_certs": self.door.ca}
        with fl.connect(self.flight, **trust) as client:
            writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
            try:
                writer.begin(pa.schema({"text": pa.string()}))
                for numbers in parts:
                    writer.write_batch(pa.record_batch({"text": [self.reference.texts[number] for number in numbers]}))
                writer.done_writing()
                for _ in parts:
                    column = reader.read_chunk().data.column("vector")
                    answers.append(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1))
            except BaseException:
                with contextlib.suppress(pa.ArrowException, fl.FlightError):
                    writer.close()  # without it, Arrow writes the error to standard error, too
                raise
            writer.close()
        return answers

    def _judge_message(self, kind: str, began: float, numbers: Sequence[int], message: bytes) -> None:
        head, _, data = message.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if not head or len(data) != int(headers.get("content-length", -1)):
            self.ledger.note(kind, began, "broken")
            return
        self._judge(kind, began, numbers, int(lines[0].split()[1]), headers, data)

    def _judge(
        self, kind: str, began: float, numbers: Sequence[int], status: int, headers: dict[str, str], data: bytes
    ) -> None:
        if status == 200:
            rows = [base64.b64decode(item["embedding"]) for item in json.loads(data)["data"]]
            self._compare(kind, numbers, [np.frombuffer(row, np.float32) for row in rows])
            self.ledger.note(kind, began, "ok")
        elif status in (429, 503):
            if not any(name.lower() == "retry-after" for name in headers):
                self.ledger.fail(f"{kind}: status {status} without Retry-After")
            self.ledger.note(kind, began, "overloaded" if status == 429 else "unavailable", repr(data[:300]))
        else:
            self.ledger.fail(f"{kind}: status {status}: {data[:300]!r}")

    def _judge_lines(self, kind: str, began: float, numbers: Sequence[int], data: bytes, complete: bool) -> None:
        whole = data.split(b"\n")[:-1]  # a line without its end is not a line
        lines = [json.loads(line) for line in whole]
        items = [line for line in lines if line.get("object") == "embedding"]
        if [item["index"] for item in items] != list(range(len(items))):
            self.ledger.fail(f"{kind}: lines are not in order")
        if items:
            vectors = [
                item["embedding"] if kind == "slow" else np.frombuffer(base64.b64decode(item["embedding"]), np.float32)
                for item in items
            ]
            self._compare(kind, numbers[: len(items)], vectors)
        ended = bool(lines) and lines[-1].get("object") == "end"
        if ended and len(items) != len(numbers):
            self.ledger.fail(f"{kind}: {len(items)} lines for {len(numbers)} texts, and a line that says the end")
        if complete and not ended and "error" not in lines[-1]:
            self.ledger.fail(f"{kind}: a complete answer ends with neither the usage nor an error")
        self.ledger.note(kind, began, "ok" if ended else "broken", repr(data[-300:]))

    def _compare(self, kind: str, numbers: Sequence[int], vectors: Any) -> None:
        problem = self.reference.difference(numbers, vectors)
        if problem is not None:
            self.ledger.fail(f"{kind}: {problem}")
