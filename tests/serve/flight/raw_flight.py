"""Client for Arrow Flight on plain gRPC. It can send messages that pyarrow's client would not send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

__all__ = ["call", "data", "descriptor", "exchange", "field", "messages", "stream"]

SERVICE = "/arrow.flight.protocol.FlightService/"


def field(number: int, value: bytes) -> bytes:
    """Return a length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def descriptor(*, path: Iterable[bytes] = (), command: bytes | None = None) -> bytes:
    """Return a `FlightDescriptor` (Flight.proto): its type, then a command or a path."""
    if command is not None:
        return b"\x08\x02" + field(2, command)
    return b"\x08\x01" + b"".join(field(3, part) for part in path)


def data(header: bytes = b"", body: bytes = b"", *, metadata: bytes = b"", described: bytes = b"") -> bytes:
    """Return a `FlightData` (Flight.proto) with the fields 1 descriptor, 2 header, 3 metadata, 1000 body."""
    parts = [(1, described), (2, header), (3, metadata), (1000, body)]
    return b"".join(field(number, value) for number, value in parts if value)


def messages(schema: Any, batches: Iterable[Any]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the header and the body of each message of an IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    for message in pa.ipc.MessageReader.open_stream(sink.getvalue()):
        yield message.metadata.to_pybytes(), b"" if message.body is None else message.body.to_pybytes()


def stream(schema: Any, batches: Iterable[Any], described: bytes) -> list[bytes]:
    """Return an IPC stream as `FlightData`. The first message has the descriptor."""
    parts = [*messages(schema, batches)]
    return [data(*part, described=described if not index else b"") for index, part in enumerate(parts)]


def exchange(channel: Any, parts: Iterable[bytes], *, timeout: float, method: str = "DoExchange") -> list[bytes]:
    """Send a stream, and return the messages of the answer.

    Raises:
        grpc.RpcError: the server rejected the call.
    """
    ask = channel.stream_stream(SERVICE + method, request_serializer=None, response_deserializer=None)
    return [*ask(iter(parts), timeout=timeout)]


def call(channel: Any, method: str, message: bytes, *, timeout: float) -> list[bytes]:
    """Send one message to a method that answers with a stream, and return the messages of the answer.

    Raises:
        grpc.RpcError: the server rejected the call.
    """
    ask = channel.unary_stream(SERVICE + method, request_serializer=None, response_deserializer=None)
    return [*ask(message, timeout=timeout)]
