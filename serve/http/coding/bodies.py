"""Decompression of request bodies, within the limit of their size."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import zstandard

from ...errors import FieldError, MediaTypeError, TooLargeError

__all__ = ["CODINGS", "check_coding", "decompress"]

#: Largest window of a zstd frame in bytes (RFC 9659).
ZSTD_WINDOW: Final = 8 << 20

#: Compressed bytes that zstd decompresses in one step: they become 32 MiB at most, 128 KiB for each block of four bytes.
ZSTD_STEP: Final = 1 << 10


def check_coding(header: bytes) -> str | None:
    """Return the coding that a `Content-Encoding` names; None if the body is plain.

    Raises:
        MediaTypeError: the coding is unknown, or there are several.
    """
    name = header.decode("latin-1").strip().lower()
    name = name.removeprefix("x-")  # RFC 9110: x-gzip is gzip
    if name in ("", "identity"):
        return None
    if name not in CODINGS:
        raise MediaTypeError(
            f"the Content-Encoding of the body is {header.decode('latin-1')!r}: send the body plain, or as one of "
            f"{', '.join(CODINGS)}"
        )
    return name


def decompress(data: bytes, coding: str, limit: int) -> bytes:
    """Return a decompressed body. It stops at the limit, so that a small body cannot expand to a huge one.

    Args:
        data: the whole compressed body.
        coding: name of a coding in `CODINGS`.
        limit: largest size of the result in bytes.

    Raises:
        TooLargeError: the decompressed body is larger than the limit.
        FieldError: the data are not of this coding, or are incomplete.
    """
    try:
        plain, complete = CODINGS[coding](data, limit)
    except (zlib.error, zstandard.ZstdError) as error:
        raise FieldError(f"the body is not {coding}, but its Content-Encoding is {coding}: {error}", None) from None
    if len(plain) > limit:
        raise TooLargeError(f"the body has more than {limit} bytes when decompressed: send it in several requests")
    if not complete:
        raise FieldError(f"the {coding} data of the body are incomplete, or other data follow them", None)
    return plain


def _gzip(data: bytes, limit: int) -> tuple[bytes, bool]:
    return _inflate(data, limit, 16 + zlib.MAX_WBITS)


def _deflate(data: bytes, limit: int) -> tuple[bytes, bool]:
    """Decompress the zlib format, or bare deflate data, which some clients send under the same name."""
    try:
        return _inflate(data, limit, zlib.MAX_WBITS)
    except zlib.error:
        return _inflate(data, limit, -zlib.MAX_WBITS)


def _inflate(data: bytes, limit: int, format_bits: int) -> tuple[bytes, bool]:
    reader = zlib.decompressobj(wbits=format_bits)
    plain = reader.decompress(data, limit + 1)
    return plain, reader.eof and not reader.unused_data


def _zstd(data: bytes, limit: int) -> tuple[bytes, bool]:
    reader = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
    parts: list[bytes] = []
    size = start = 0
    while start < len(data) and not reader.eof and size <= limit:
        parts.append(reader.decompress(data[start : start + ZSTD_STEP]))
        size += len(parts[-1])
        start += ZSTD_STEP
    return b"".join(parts), reader.eof and not reader.unused_data and start >= len(data)


#: Functions that decompress data up to a little more than the limit, and report whether the data were complete.
CODINGS: Final[Mapping[str, Callable[[bytes, int], tuple[bytes, bool]]]] = MappingProxyType(
    {"gzip": _gzip, "zstd": _zstd, "deflate": _deflate}
)
