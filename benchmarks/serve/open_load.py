"""Open load: requests at a fixed rate, independent of the server's answers, from a separate process. It prints JSON.

    python benchmarks/serve/open_load.py PORT --body JSON --rate 100 --seconds 10

For each request the JSON has its start (seconds since the first request), its milliseconds, its status (0 if the
connection broke or the time limit passed), and whether a refusal had Retry-After. Connections are reused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop
from load import HEAD, NUMBER

#: Time limit of an answer, seconds.
PATIENCE = 60.0

Answer = tuple[float, float, int, bool]


class Connection(asyncio.Protocol):
    """`Connection`: a connection with at most one request in flight."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the future returns the head of the answer."""
        self.answer = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank or self.answer is None:
            return
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(body) >= length and not self.answer.done():
            self.answer.set_result(head.lower())

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the server closed the connection"))


async def load(port: int, request: bytes, rate: float, seconds: float) -> list[Answer]:
    """Send requests at a rate for some seconds, and wait for every answer."""
    loop = asyncio.get_running_loop()
    free: list[Connection] = []
    answers: list[Answer] = []
    begun = time.perf_counter()

    async def one(number: int) -> None:
        at = time.perf_counter()
        status, has_retry_after = 0, False
        try:
            while free and free[-1].transport.is_closing():
                free.pop()
            if free:
                connection = free.pop()
            else:
                _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
            async with asyncio.timeout(PATIENCE):
                head = await connection.send(request.replace(NUMBER, b"%08d" % number))
            status, has_retry_after = int(head.split(b" ", 2)[1]), b"\r\nretry-after:" in head
            free.append(connection)
        except (OSError, TimeoutError):
            pass  # status 0
        answers.append((at - begun, 1000 * (time.perf_counter() - at), status, has_retry_after))

    async with asyncio.TaskGroup() as tasks:
        number = 0
        while (now := time.perf_counter() - begun) < seconds:
            while number < now * rate:
                tasks.create_task(one(number))
                number += 1
            await asyncio.sleep(0.002)
    for connection in free:
        connection.transport.close()
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--path", default="/v1/embeddings")
    parser.add_argument("--body", required=True)
    options = parser.parse_args()
    payload = options.body.encode()
    message = HEAD.format(path=options.path, length=len(payload)).encode() + payload
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load(options.port, message, options.rate, options.seconds))))
