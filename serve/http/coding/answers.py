"""Compression of answers that a client accepts compressed, and that are worth it.

Measured with benchmarks/serve/answer_coding.py: numbers in JSON shrink to 0.37 of their size with zstd and 0.44 with gzip,
base64 of float32 to 0.74 and 0.76, for which gzip takes 28 times as long as zstd, and float32 itself to 0.92.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Final, Literal

import zstandard

__all__ = ["Density", "choose", "shrink"]

#: Kind of a body: JSON numbers or text; vectors in base64, which only zstd compresses fast; bytes that do not shrink.
Density = Literal["text", "base64", "raw"]

#: Fastest levels: higher ones take four times as long for 4 % less.
GZIP_LEVEL: Final = 1
ZSTD_LEVEL: Final = 1

#: Largest body that is compressed on the event loop. A larger one takes more than a millisecond, so a thread does it.
INLINE_BYTES: Final = 128 << 10

#: Codings by kind of body, the preferred one first.
WORTH_IT: Final[dict[Density, tuple[str, ...]]] = {"text": ("zstd", "gzip"), "base64": ("zstd",), "raw": ()}


@lru_cache(256)
def choose(accept: bytes, density: Density) -> str | None:
    """Return the coding of an answer; None to send it plain.

    Args:
        accept: value of `Accept-Encoding`.
        density: kind of the body.
    """
    qualities = _qualities(accept)
    rest = qualities.get("*", 0.0)
    best, quality = None, qualities.get("identity", 0.0)
    for coding in WORTH_IT[density]:
        wanted = qualities.get(coding, rest)
        if wanted > 0.0 and (wanted > quality or (best is None and wanted == quality)):
            best, quality = coding, wanted
    return best


async def shrink(
    body: bytes | AsyncIterator[bytes], density: Density, accept: bytes, smallest: int | None
) -> tuple[bytes | AsyncIterator[bytes], tuple[tuple[bytes, bytes], ...]] | None:
    """Return the body of an answer compressed, if the client accepts it and it is worth it.

    Args:
        body: the body, or an iterator over its parts.
        density: kind of the body.
        accept: value of `Accept-Encoding`.
        smallest: size in bytes of the smallest body that is compressed; None for no compression.

    Returns:
        The compressed body and the headers that describe it; None to send the body plain.
    """
    if smallest is None or (isinstance(body, bytes) and len(body) < smallest):
        return None
    coding = choose(accept, density)
    if coding is None:
        return None
    headers = ((b"vary", b"accept-encoding"), (b"content-encoding", coding.encode()))
    if not isinstance(body, bytes):
        return compress_parts(body, coding), headers
    if len(body) <= INLINE_BYTES:
        return compress(body, coding), headers
    return await asyncio.get_running_loop().run_in_executor(None, compress, body, coding), headers


def compress(body: bytes, coding: str) -> bytes:
    """Return a compressed body."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(body)
    return zlib.compress(body, GZIP_LEVEL, 16 + zlib.MAX_WBITS)


async def compress_parts(parts: AsyncIterator[bytes], coding: str) -> AsyncIterator[bytes]:
    """Yield the parts of a body, compressed; the client can decompress each part as soon as it arrives."""
    write, finish = _writer(coding)
    async for part in parts:
        yield write(part)
    yield finish()


def _writer(coding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if coding == "zstd":
        frame = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
        return lambda part: frame.compress(part) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), frame.flush
    stream = zlib.compressobj(GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)
    return lambda part: stream.compress(part) + stream.flush(zlib.Z_SYNC_FLUSH), stream.flush


def _qualities(accept: bytes) -> dict[str, float]:
    """Return the quality of each coding in `Accept-Encoding` (RFC 9110, section 12.5.3); an invalid one is 0."""
    found: dict[str, float] = {}
    for element in accept.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if name:
            found[name.removeprefix("x-")] = quality if 0.0 <= quality <= 1.0 else 0.0
    return found
