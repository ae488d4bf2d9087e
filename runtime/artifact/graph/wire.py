"""Reading of Protocol Buffers' wire format, without a schema and without a package.

A field is returned as three integers: its key, `number << 3 | wire type`, and its value. The value of a varint or of a fixed
number is the second integer. The value of a length-delimited field is the span from the second to the third integer.

Source of the format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct

from ...errors import ArtifactError

__all__ = ["Field", "read_fields", "read_name", "read_packed", "read_varint"]

#: Key, value or start of the span, end of the span.
Field = tuple[int, int, int]

#: Wire types. Groups, 3 and 4, are not in ONNX.
VARINT, FIXED64, SPAN, FIXED32 = 0, 1, 2, 5

#: Bytes of the longest varint.
LONGEST_VARINT = 10

#: Longest name in bytes.
LONGEST_NAME = 1024


def read_fields(data: bytes, start: int, end: int) -> list[Field]:
    """Return the fields of the message in `data[start:end]`.

    Raises:
        ArtifactError: the bytes are not a message.
    """
    fields: list[Field] = []
    at = start
    while at < end:
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = read_varint(data, at - 1, end)
        kind = key & 7
        if key < 8:
            raise ArtifactError(f"a field at byte {at} has the number 0")
        if kind == SPAN:
            if at < end and data[at] < 0x80:  # most lengths are one byte; the call takes as long as all the rest
                size, at = data[at], at + 1
            else:
                size, at = read_varint(data, at, end)
            if size > end - at:
                raise ArtifactError(f"a field at byte {at} ends behind its message")
            fields.append((key, at, at + size))
            at += size
        elif kind == VARINT:
            value, at = read_varint(data, at, end)
            fields.append((key, value, 0))
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
            if size > end - at:
                raise ArtifactError(f"a field at byte {at} ends behind its message")
            (value,) = struct.unpack_from("<I" if size == 4 else "<Q", data, at)
            fields.append((key, value, 0))
            at += size
        else:
            raise ArtifactError(f"a field at byte {at} has the wire type {kind}")
    return fields


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return an unsigned varint and the position after it.

    Raises:
        ArtifactError: the varint does not end before `end`, or has more than 64 bits.
    """
    value = shift = 0
    for position in range(at, min(end, at + LONGEST_VARINT)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position + 1
        shift += 7
    raise ArtifactError(f"the number at byte {at} does not end, or has more than 64 bits")


def read_packed(data: bytes, start: int, end: int) -> list[int]:
    """Return the varints of a packed field.

    Raises:
        ArtifactError: the bytes are not varints.
    """
    values = []
    while start < end:
        value, start = read_varint(data, start, end)
        values.append(value)
    return values


def read_name(data: bytes, start: int, end: int) -> str:
    """Return a name: text without control characters.

    Raises:
        ArtifactError: the bytes are too many, are not UTF-8, or hold a character that cannot be displayed.
    """
    if end - start > LONGEST_NAME:
        raise ArtifactError(f"a name at byte {start} has {end - start} bytes, at most {LONGEST_NAME} are allowed")
    try:
        name = data[start:end].decode()
    except UnicodeDecodeError:
        raise ArtifactError(f"a name at byte {start} is not UTF-8") from None
    if not name.isprintable():
        raise ArtifactError(f"the name {name!a} has a control character")
    return name
