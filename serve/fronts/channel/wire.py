"""Messages between a front process and the engine process, and their bytes.

A frame is a prefix of 16 bytes (`<IIQ`: size of the header, a number that marks the protocol, size of the payload), a
header in MessagePack, zeros up to a multiple of 8 bytes, and a payload of raw arrays in the machine's byte order. Both ends
run on one machine and come from one installation, so there is no version to negotiate: another mark is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.errors import FletcherError
from fletcher.runtime import Encodings
from fletcher.runtime.artifact.outputs import ValueRows
from fletcher.runtime.model_info import ModelInfo

from ...engine.rows_request import RowsRequest
from ...engine.terms import Priority, Terms
from ...models.spec import ModelSpec
from ..error_data import ErrorData

__all__ = [
    "Cancel",
    "Catalog",
    "CatalogEntry",
    "CatalogTaken",
    "Failure",
    "Frame",
    "Message",
    "Page",
    "PageRequest",
    "ProtocolError",
    "Rows",
    "Values",
    "decode_header",
    "encode",
    "read_prefix",
    "rows_frame",
    "rows_request",
    "values_frame",
    "values_of",
]

PREFIX: Final = struct.Struct("<IIQ")
MARK: Final = 0x464C5431  # "FLT1"

#: Largest header: a catalog of hundreds of models has some hundred kilobytes.
MAX_HEADER: Final = 1 << 24

#: Largest payload: more than the bound of a request's memory (`admission.MAX_MEMORY`).
MAX_PAYLOAD: Final = 1 << 32

#: A frame as buffers that are written one after the other.
Frame = list[bytes | memoryview]


class ProtocolError(Exception):
    """Bytes that are not a frame of this protocol, or a message whose sizes contradict its payload."""


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Token ids to compute, from a front. The payload has ids, lengths and dropped tokens, int32, and perhaps token types.

    Attributes:
        id: number of the message, which the answer repeats.
        model, version: label of the version whose tokenizer made the ids.
        digest: digest of that version's artifact.
        output: name of the graph's output; None is the first.
        value_rows: rows of values that a text has; None is one row.
        rows: number of texts.
        tokens: number of token ids.
        has_types: whether token types follow.
        requests: number of clients' requests that the rows come from.
        priority, client, salt: of the requests.
        seconds: time until their deadline; None for none.
        stream, part: the stream that the request is a part of, and the number of the part; empty and 0 without a stream.
    """

    id: int
    model: str
    version: str
    digest: str
    output: str | None
    value_rows: ValueRows | None
    rows: int
    tokens: int
    has_types: bool
    requests: int
    priority: Priority
    client: str
    seconds: float | None
    stream: str = ""
    salt: str = ""
    part: int = 0


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Notice of a front that it needs no answer to a message, because all its requests were cancelled."""

    id: int


class Values(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The computed rows of a message. The payload has their values.

    Attributes:
        id: number of the message.
        rows, columns: shape of the values.
        half: whether they are float16 instead of float32.
        wait: seconds in the queue.
        compute: seconds of the batches that the rows were in.
    """

    id: int
    rows: int
    columns: int
    half: bool
    wait: float
    compute: float


class Failure(ErrorData, frozen=True, array_like=True, kw_only=True, tag=4):
    """The error that ended a message.

    Attributes:
        id: number of the message.
    """

    id: int


class CatalogEntry(msgspec.Struct, frozen=True, array_like=True):
    """One served version.

    Attributes:
        spec: its configuration.
        info: the description of the loaded model.
        tokenizer: file of its tokenizer, which stays as it is even if the artifact's folder is exchanged.
        query_weights: file of the weights of queries that need no encoder; empty if there is none.
    """

    spec: ModelSpec
    info: ModelInfo
    tokenizer: str
    query_weights: str = ""


class Catalog(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The versions that the engine process serves, sent at the start and after every change.

    Attributes:
        number: number of the catalog, which `CatalogTaken` repeats.
        entries: the versions that answer or have the weight 0, in order; a request can name the latter.
    """

    number: int
    entries: tuple[CatalogEntry, ...]


class CatalogTaken(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Notice of a front that it answers by a catalog, and that it waits for no answer of a version that the catalog lacks."""

    number: int


class PageRequest(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Request of the engine process for a front's metrics."""

    id: int


class Page(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A front's metrics. The payload is Prometheus' text format."""

    id: int


Message = Rows | Cancel | Values | Failure | Catalog | CatalogTaken | PageRequest | Page

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message, payload: Sequence[bytes | memoryview] = ()) -> Frame:
    """Return the buffers of a frame. Buffers of the payload are not copied: they must not change until they are written."""
    header = _encoder.encode(message)
    size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in payload)
    gap = -(PREFIX.size + len(header)) % 8
    return [PREFIX.pack(len(header), MARK, size) + header + bytes(gap), *payload]


def read_prefix(data: bytes | memoryview) -> tuple[int, int, int]:
    """Return the sizes of a frame's header, gap and payload.

    Raises:
        ProtocolError: the prefix is not one of this protocol.
    """
    header, mark, payload = PREFIX.unpack_from(data)
    if mark != MARK or header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise ProtocolError("the channel between front and engine holds bytes that are not a frame")
    return header, -(PREFIX.size + header) % 8, payload


def decode_header(data: bytes | memoryview) -> Message:
    """Return a message.

    Raises:
        ProtocolError: the header is not a message.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, FletcherError) as error:
        raise ProtocolError(f"the channel between front and engine holds an unknown message: {error}") from error


def _raw(array: NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")


def rows_frame(message: Rows, encodings: Encodings) -> Frame:
    """Return the frame of token ids."""
    lengths = encodings.lengths.astype(np.int32)
    arrays = [encodings.ids, lengths, encodings.dropped]
    if encodings.token_types is not None:
        arrays.append(encodings.token_types)
    return encode(message, [_raw(array) for array in arrays])


def rows_request(message: Rows, payload: memoryview, terms: Terms) -> RowsRequest:
    """Return the request of a message. Its arrays share the payload's memory.

    Raises:
        ProtocolError: the sizes contradict the payload.
    """
    rows, tokens = message.rows, message.tokens
    size = 4 * (tokens + 2 * rows + (tokens if message.has_types else 0))
    if rows < 1 or tokens < rows or size != len(payload):
        raise ProtocolError(f"a message of {rows} rows and {tokens} tokens has a payload of {len(payload)} bytes")
    values = np.frombuffer(payload, np.int32)
    ids, lengths = values[:tokens], values[tokens : tokens + rows]
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] != tokens or int(lengths.min()) < 1:
        raise ProtocolError(f"the lengths of a message's rows add up to {offsets[-1]}, and it has {tokens} tokens")
    dropped = values[tokens + rows : tokens + 2 * rows]
    types = values[tokens + 2 * rows :] if message.has_types else None
    encodings = Encodings(ids, offsets, dropped, types)
    return RowsRequest(encodings, message.output, message.value_rows, message.requests, terms)


def values_frame(number: int, values: NDArray[np.generic], wait: float, compute: float) -> Frame:
    """Return the frame of computed rows."""
    half = values.dtype == np.float16
    rows, columns = values.shape
    return encode(Values(number, rows, columns, half, wait, compute), [_raw(values)])


def values_of(message: Values, payload: memoryview) -> NDArray[np.float32]:
    """Return the values of a message, (rows, columns), float32 or float16. They share the payload's memory.

    Raises:
        ProtocolError: the shape contradicts the payload.
    """
    kind: np.dtype[Any] = np.dtype(np.float16 if message.half else np.float32)
    if message.rows * message.columns * kind.itemsize != len(payload):
        raise ProtocolError(
            f"values of shape {(message.rows, message.columns)} came with a payload of {len(payload)} bytes"
        )
    values: NDArray[np.float32] = np.frombuffer(payload, kind).reshape(message.rows, message.columns)
    return values
