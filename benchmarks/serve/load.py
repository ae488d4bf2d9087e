"""Load with many keep-alive connections that repeat one request, from a separate process. It prints JSON.

The client uses raw sockets, so that the load costs less than the measured server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import time
from typing import cast

import uvloop

HEAD = "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"

#: Part of the body that is replaced by the request's number.
NUMBER = b"########"


class Client(asyncio.Protocol):
    """`Client`: one connection, which always has one request in flight."""

    def __init__(self, request: bytes, left: list[int], times: list[float], done: asyncio.Future[None]) -> None:
        self._request = request
        self._left = left
        self._times = times
        self._done = done
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport lacks only the base class
        self._send()

    def _send(self) -> None:
        if not self._left[0]:
            self._transport.close()
            self._done.set_result(None)
            return
        self._left[0] -= 1
        self._sent = time.perf_counter()
        # The server computes identical requests in flight once, so all requests differ.
        self._transport.write(self._request.replace(NUMBER, b"%08d" % self._left[0]))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        lowered = head.lower()
        if not lowered.startswith(b"http/1.1 200"):
            self._done.set_exception(RuntimeError(f"the server answered {self._buffer[:300]!r}"))
            return
        length = int(lowered.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._times.append(time.perf_counter() - self._sent)
            self._buffer = body[length:]
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(f"the server closed the connection ({error})"))


async def load(
    port: int, request: bytes, connections: int, requests: int, tls: ssl.SSLContext | None = None
) -> dict[str, float]:
    """Send a number of requests over a number of connections, with TLS or without. The handshakes are not counted."""
    loop = asyncio.get_running_loop()
    left, times = [requests], list[float]()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    if tls is not None:  # one after the other would mix handshakes with the first requests
        ready = [
            await loop.create_connection(lambda: asyncio.Protocol(), "127.0.0.1", port, ssl=tls)
            for _ in range(connections)
        ]
        started = time.perf_counter()
        for end, (transport, _) in zip(ends, ready, strict=True):
            client = Client(request, left, times, end)
            transport.set_protocol(client)
            client.connection_made(transport)
    else:
        started = time.perf_counter()
        for end in ends:
            await loop.create_connection(lambda end=end: Client(request, left, times, end), "127.0.0.1", port)
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - started
    times.sort()
    return {
        "requests": len(times),
        "seconds": seconds,
        "p50_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[int(len(times) * 0.99)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--path", default="/v1/embeddings")
    parser.add_argument("--body", required=True)
    parser.add_argument("--tls-ca", help="PEM file of the CA of a server with TLS")
    options = parser.parse_args()
    context = None if options.tls_ca is None else ssl.create_default_context(cafile=options.tls_ca)
    payload = options.body.encode()
    message = HEAD.format(path=options.path, length=len(payload)).encode() + payload
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load(options.port, message, options.connections, options.requests, context))))
