"""JSON encoding of long lists in steps of a few milliseconds, so that the event loop serves other requests in between."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

__all__ = [
    "INLINE_VALUES",
    "PIECE_BYTES",
    "SLICE_ROWS",
    "gather",
    "json_list",
    "json_numbers",
    "json_rows",
    "little_endian",
    "short_floats",
]

#: Rows that are encoded in one step of the event loop: 64 rows of 1,024 floats take about 3 ms.
SLICE_ROWS = 64

#: Length in bytes of the longest JSON body that is sent whole, with its length. A longer one is sent in pieces.
WHOLE_BYTES = 1 << 20

#: Numbers that the event loop encodes in one step: they take about 3 ms.
INLINE_VALUES = 1 << 16

#: Bytes of a long body that are written at a time; the next piece waits until the client has read most of them.
PIECE_BYTES = 256 << 10

_encoder = msgspec.json.Encoder()


def json_list(slices: Iterator[Sequence[Any]]) -> Iterator[bytes]:
    """Yield the parts of one JSON list.

    Args:
        slices: slices of the list, in order.
    """
    mark = b"["
    for rows in slices:
        yield mark + _encoder.encode(rows)[1:-1]
        mark = b","
    yield b"[]" if mark == b"[" else b"]"


async def gather(parts: Iterator[bytes], values: int = 0) -> bytes | AsyncIterator[bytes]:
    """Return the parts as one body, or as a stream of parts if the body is longer than `WHOLE_BYTES`.

    The parts of a stream are made on another thread, one at a time, when the client has received most of those before.

    Args:
        parts: parts of the body.
        values: number of numbers in all parts, if one part can have many of them.
    """
    if values > INLINE_VALUES:
        return _rest([], parts)
    bodies: list[bytes] = []
    size = 0
    for part in parts:
        if bodies:
            await asyncio.sleep(0)
        bodies.append(part)
        size += len(part)
        if size > WHOLE_BYTES:
            return _rest(bodies, parts)
    return bodies[0] if len(bodies) == 1 else b"".join(bodies)


async def _rest(first: list[bytes], parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the first parts, then the others, each at most about `PIECE_BYTES` long."""
    loop = asyncio.get_running_loop()
    part: bytes | None = b"".join(first)
    first.clear()
    while part is not None:
        for start in range(0, len(part), PIECE_BYTES):
            yield part[start : start + PIECE_BYTES]
        part = await loop.run_in_executor(None, next, parts, None)


def json_numbers(values: NDArray[Any]) -> Any:
    """Return the JSON of an array as a value that msgspec copies into its output: a list, or nested lists.

    A float32 has the fewest digits that read back as the same float32: 9 instead of the 17 of the equal float64.

    Args:
        values: numbers in native byte order, of any shape.
    """
    if values.size <= INLINE_VALUES or values.ndim < 2:
        return msgspec.Raw(orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY))
    # orjson holds Python's lock while it encodes, so other threads run between slices.
    rows = max(1, INLINE_VALUES * len(values) // values.size)
    slices = (values[start : start + rows] for start in range(0, len(values), rows))
    return msgspec.Raw(
        b"["
        + b",".join(
            orjson.dumps(np.ascontiguousarray(part), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for part in slices
        )
        + b"]"
    )


def json_rows(values: NDArray[Any]) -> list[Any]:
    """Return the JSON of each row of an array, as `json_numbers` does.

    Args:
        values: numbers, (n, ...).
    """
    rows = np.ascontiguousarray(values)
    return [msgspec.Raw(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for row in rows]


def short_floats(values: NDArray[np.float32]) -> list[float]:
    """Return float32 values as Python's floats, chosen so that JSON has the fewest digits of each.

    Args:
        values: float32, (n,).
    """
    floats: list[float] = orjson.loads(orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY))
    return floats


def little_endian(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return the same values as a contiguous little-endian array."""
    if sys.byteorder == "little" and vectors.dtype.isnative:
        return np.ascontiguousarray(vectors)
    return np.ascontiguousarray(vectors, vectors.dtype.newbyteorder("<"))
