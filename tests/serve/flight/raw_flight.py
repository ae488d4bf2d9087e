"""Arrow Flight by hand: messages that pyarrow's own client would not send, over plain gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

__all__ = ["call", "data", "descriptor", "exchange", "field", "messages", "stream"]

SERVICE = "/arrow.flight.protocol.FlightService/"


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def descriptor(*, path: Iterable[bytes] = (), command: bytes | None = None) -> bytes:
    """A `FlightDescriptor` (Flight.proto): its type, then a command or a path."""
    if command is not None:
        return b"\x08\x02" + field(2, command)
    return b"\x08\x01" + b"".join(field(3, part) for part in path)


def data(header: bytes = b"", body: bytes = b"", *, metadata: bytes = b"", described: bytes = b"") -> bytes:
    """A `FlightData` (Flight.proto): 1 descriptor, 2 header, 3 metadata, 1000 body."""
    parts = [(1, described), (2, header), (3, metadata), (1000, body)]
    return b"".join(field(number, value) for number, value in parts if value)


def messages(schema: Any, batches: Iterable[Any]) -> Iterator[tuple[bytes, bytes]]:
    """Header and body of each message of an IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    for message in pa.ipc.MessageReader.open_stream(sink.getvalue()):
        yield message.metadata.to_pybytes(), b"" if message.body is None else message.body.to_pybytes()


def stream(schema: Any, batches: Iterable[Any], described: bytes) -> list[bytes]:
    """An IPC stream as `FlightData`, the descriptor in the first one."""
    parts = [*messages(schema, batches)]
    return [data(*part, described=described if not index else b"") for index, part in enumerate(parts)]


def exchange(channel: Any, parts: Iterable[bytes], *, timeout: float, method: str = "DoExchange") -> list[bytes]:
    """Sends a stream and gives what comes back.

    Raises:
        grpc.RpcError: the server refused it.
    """
    ask = channel.stream_stream(SERVICE + method, request_serializer=None, response_deserializer=None)
    return [*ask(iter(parts), timeout=timeout)]


def call(channel: Any, method: str, message: bytes, *, timeout: float) -> list[bytes]:
    """Sends one message to a method that answers with a stream.

    Raises:
        grpc.RpcError: the server refused it.
    """
    ask = channel.unary_stream(SERVICE + method, request_serializer=None, response_deserializer=None)
    return [*ask(message, timeout=timeout)]
