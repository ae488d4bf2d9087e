"""Frames over a stream: they arrive whole and in order, however the bytes are cut."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from fletcher.serve.fronts.channel.frames import BUFFER, FrameProtocol
from fletcher.serve.fronts.channel.wire import Cancel, Failure, Frame, Message, Page, Values, encode, values_frame


class Sink(asyncio.Transport):
    """A transport that records whether it was aborted."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def feed(protocol: FrameProtocol, data: bytes, sizes: random.Random) -> None:
    """Give bytes to a protocol in pieces of random sizes, as a loop does."""
    start = 0
    while start < len(data):
        buffer = protocol.get_buffer(-1)
        assert len(buffer) > 0
        size = min(sizes.choice([1, 3, 16, 1000, 70_000]), len(buffer), len(data) - start)
        buffer[:size] = data[start : start + size]
        protocol.buffer_updated(size)
        start += size


def frames(sizes: random.Random) -> list[tuple[Message, bytes, Frame]]:
    """Return messages with payloads from nothing to several buffers."""
    result: list[tuple[Message, bytes, Frame]] = []
    for number in range(40):
        size = sizes.choice([0, 5, 999, BUFFER - 100, BUFFER, 3 * BUFFER])
        payload = sizes.randbytes(size)
        kinds: list[Message] = [Page(number), Cancel(number), Failure(id=number, error="E", message="x" * size)]
        message = sizes.choice(kinds)
        if isinstance(message, Failure):
            payload = b""  # here the header is what is large
        result.append((message, payload, encode(message, [payload])))
    return result


@pytest.mark.parametrize("seed", range(8))
def test_frames_arrive_whole_and_in_order(seed: int) -> None:
    sizes = random.Random(seed)
    sent = frames(sizes)
    received: list[tuple[Message, bytes]] = []
    kept: list[memoryview] = []

    def take(message: Message, payload: memoryview) -> None:
        received.append((message, bytes(payload)))
        kept.append(payload)

    protocol = FrameProtocol(take, lambda: None)
    feed(protocol, b"".join(part for _, _, frame in sent for part in frame), sizes)
    assert received == [(message, payload) for message, payload, _ in sent]
    # The payloads belong to the receiver: later frames do not write over them.
    assert [bytes(payload) for payload in kept] == [payload for _, payload, _ in sent]


def test_other_bytes_end_the_connection() -> None:
    protocol = FrameProtocol(lambda message, payload: None, lambda: None)
    transport = Sink()
    protocol.connection_made(transport)
    feed(protocol, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", random.Random(0))
    assert transport.aborted


def test_frames_cross_a_socket(tmp_path: object) -> None:
    values = np.random.default_rng(0).standard_normal((2000, 384)).astype(np.float32)

    async def main() -> list[tuple[Message, bytes]]:
        received: list[tuple[Message, bytes]] = []
        done = asyncio.Event()

        def take(message: Message, payload: memoryview) -> None:
            received.append((message, bytes(payload)))
            if len(received) == 3:
                done.set()

        path = f"{tmp_path}/socket"
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: FrameProtocol(take, lambda: None), path)
        _, client = await loop.create_unix_connection(lambda: FrameProtocol(take, done.set), path)
        client.write([encode(Cancel(1)), values_frame(2, values, 0.0, 0.0), encode(Cancel(3))])
        await asyncio.wait_for(done.wait(), 10)
        assert client.transport is not None
        client.transport.close()
        server.close()
        return received

    received = asyncio.run(main())
    assert [message.id for message, _ in received if isinstance(message, Cancel | Values)] == [1, 2, 3]
    assert received[1][1] == values.tobytes()
