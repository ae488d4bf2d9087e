"""Sizes of an Arrow IPC stream before it is read: its rows, and the bytes of its buffers after decompression.

Each compressed buffer begins with its plain length, and the metadata of a record batch lists the buffers (format/Message.fbs
of Arrow). A few bytes can stand for gigabytes, so the lengths are summed before Arrow allocates anything.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import pyarrow as pa

__all__ = ["stream_sizes"]

#: Fields of the flatbuffers tables that are read.
MESSAGE_HEADER, DICTIONARY_DATA = 2, 1
BATCH_LENGTH, BATCH_BUFFERS, BATCH_COMPRESSION = 0, 2, 3

#: Bytes of the struct `Buffer`: offset and length, int64.
BUFFER_BYTES: Final = 16


def stream_sizes(body: Any) -> tuple[int, int]:
    """Return the number of rows of a stream, and the bytes of its buffers after decompression. Nothing is decompressed.

    Args:
        body: an Arrow IPC stream.

    Raises:
        pa.ArrowException, OSError, ValueError: the body is not an Arrow IPC stream.
    """
    rows = plain = 0
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type not in ("record batch", "dictionary"):
            continue
        metadata, buffers = memoryview(message.metadata), memoryview(message.body or b"")
        try:
            batch = _table(metadata, _field(metadata, _table(metadata, 0), MESSAGE_HEADER))
            if message.type == "dictionary":
                batch = _table(metadata, _field(metadata, batch, DICTIONARY_DATA))
            else:
                place = _field(metadata, batch, BATCH_LENGTH)
                rows += _read("<q", metadata, place) if place else 0
            plain += _plain_bytes(metadata, batch, buffers)
        except struct.error as error:
            raise ValueError("the metadata of a record batch are damaged") from error
    return rows, plain


def _plain_bytes(metadata: memoryview, batch: int, buffers: memoryview) -> int:
    """Return the bytes of a batch's buffers after decompression."""
    place = _field(metadata, batch, BATCH_BUFFERS)
    if not place or not _field(metadata, batch, BATCH_COMPRESSION):
        return buffers.nbytes
    vector = _table(metadata, place)
    total = 0
    for index in range(_read("<I", metadata, vector)):
        start, length = struct.unpack_from("<qq", metadata, vector + 4 + BUFFER_BYTES * index)
        if length:
            plain = _read("<q", buffers, start)
            total += length if plain == -1 else max(plain, 0)  # -1: this buffer is not compressed
    return total


def _table(data: memoryview, place: int) -> int:
    """Return the place of the table, or vector, to which an offset refers."""
    return place + _read("<I", data, place)


def _field(data: memoryview, table: int, index: int) -> int:
    """Return the place of a field of a table; 0 if it is left out."""
    entries = table - _read("<i", data, table)
    entry = 4 + 2 * index
    if entry >= _read("<H", data, entries):
        return 0
    offset = _read("<H", data, entries + entry)
    return table + offset if offset else 0


def _read(form: str, data: memoryview, place: int) -> int:
    if place < 0:
        raise struct.error("an offset is negative")
    value: int
    (value,) = struct.unpack_from(form, data, place)
    return value
