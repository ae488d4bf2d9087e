"""Routes for binary formats: `/encode` reads and returns CBOR, `/encode/arrow` reads and returns Arrow IPC."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl

import cbor2
import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Embeddings, TextOutputs
from fletcher.runtime.inputs import Texts

from ...arrow.options import ArrowOptions
from ...errors import FieldError, MediaTypeError
from ...json_bodies import invalid
from ..call import Call, Response
from ..route import Doc, Route
from .answers import TOKEN_HEADERS, token_headers

__all__ = ["encode_routes"]

#: Largest number of texts in a CBOR request, and of rows in an Arrow stream. For larger streams, Flight is better.
MAX_TEXTS, MAX_ROWS = 2048, 65_536

#: Largest CBOR body in bytes, and largest number of elements of an answer, that the event loop handles itself.
INLINE_BYTES = 1 << 16

#: Copies of an Arrow stream that is read: its columns, and its texts as strings, which may take four bytes per character.
READ_COPIES = 5

#: Copies of a binary answer while it is made: its parts, and the whole.
COPIES = 2

CBOR = "application/cbor"

#: Major types of CBOR that are read, and the mark at the end of an array of indefinite length.
CBOR_TEXT, CBOR_ARRAY, CBOR_BREAK = 3, 4, b"\xff"

ARROW = "application/vnd.apache.arrow.stream"


def query_options(call: Call) -> ArrowOptions:
    """Return the options in the query. They are the same as in a Flight descriptor.

    Raises:
        FieldError: an option is unknown, is given twice, or has a value of a wrong type.
    """
    pairs = parse_qsl(call.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        raise FieldError("the query gives an option twice: give each option once", None)
    try:
        return msgspec.convert(dict(pairs), ArrowOptions, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


async def encode(call: Call) -> Response:
    """Return a CBOR array of vectors for a CBOR array of texts."""
    options = query_options(call)
    if options.include is not None:
        raise FieldError("include is set, but a CBOR answer has vectors alone: use /encode/arrow", "include")
    body, most = await call.body(), call.limits.most_items(MAX_TEXTS)
    inline = len(body) <= INLINE_BYTES
    texts = read_cbor(body, most) if inline else await asyncio.to_thread(read_cbor, body, most)
    call.items = "text {}".format
    _, embeddings = await call.ask(options.model, Texts(tuple(texts)), options.embed)
    headers = token_headers(embeddings.tokens, embeddings.dropped)
    vectors = embeddings.vectors
    call.limits.budget.hold(COPIES * 5 * vectors.size, call.draft)
    answer = cbor_rows(vectors) if vectors.size <= INLINE_BYTES else await asyncio.to_thread(cbor_rows, vectors)
    return Response(200, answer, CBOR.encode(), headers, "raw")


def read_cbor(body: bytes, most: int) -> list[str]:
    """Return the texts of a CBOR array (RFC 8949).

    Nothing but an array of text strings is read. A general decoder also reads tags and maps, and some of them take a time
    that grows with the square of the body: a decimal fraction of a large integer, a map of keys with equal hashes.

    Args:
        body: the whole body.
        most: largest number of texts.

    Raises:
        FieldError: the body is not a CBOR array of text strings, one of them is not valid UTF-8, or there are too many.
    """
    kind, count, at = _head(body, 0)
    if kind != CBOR_ARRAY:
        raise FieldError("the body must be a CBOR array of text strings", None)
    if count is not None and count > most:
        raise FieldError(f"the request has {count} texts; the limit is {most}: send several requests", None)
    texts: list[str] = []
    while count is None or len(texts) < count:
        if count is None and body[at : at + 1] == CBOR_BREAK:
            at += 1
            break
        if len(texts) == most:
            raise FieldError(f"the request has more than {most} texts: send several requests", None)
        kind, size, at = _head(body, at)
        if kind != CBOR_TEXT:
            raise FieldError("the body must be a CBOR array of text strings", None)
        if size is None:
            raise FieldError("a text of the body has an indefinite length: send each text with its length", None)
        if size > len(body) - at:
            raise FieldError("the body is not CBOR: it ends inside a text", None)
        try:
            texts.append(body[at : at + size].decode())
        except UnicodeDecodeError:
            raise FieldError(f"text {len(texts)} of the body is not valid UTF-8", None) from None
        at += size
    if at != len(body):
        raise FieldError("the body is not CBOR: other data follow the array", None)
    return texts


def _head(body: bytes, at: int) -> tuple[int, int | None, int]:
    """Return the major type at a place, its argument, which is None for an indefinite length, and the place behind the head.

    Raises:
        FieldError: the body ends inside the head, or the head is malformed.
    """
    if at >= len(body):
        raise FieldError("the body is not CBOR: it ends inside the array", None)
    kind, short = body[at] >> 5, body[at] & 0x1F
    at += 1
    if short < 24:
        return kind, short, at
    if short == 31:
        return kind, None, at
    if short > 27 or at + (size := 1 << short - 24) > len(body):
        raise FieldError("the body is not CBOR: the head of a value is malformed", None)
    return kind, int.from_bytes(body[at : at + size], "big"), at + size


def cbor_rows(vectors: NDArray[Any]) -> bytes:
    """Return vectors as nested CBOR arrays (RFC 8949).

    A float32 is 0xfa and 4 bytes, a float16 is 0xf9 and 2 bytes, an int8 is an integer. A ubinary vector is a byte string.

    Args:
        vectors: float32, float16, int8 or uint8, (n, elements).
    """
    count, size = vectors.shape
    if vectors.dtype in (np.float32, np.float16):
        width = vectors.dtype.itemsize
        row = np.empty((count, size, width + 1), np.uint8)
        row[:, :, 0] = 0xFA if width == 4 else 0xF9
        row[:, :, 1:] = (
            np.ascontiguousarray(vectors, vectors.dtype.newbyteorder(">")).view(np.uint8).reshape(count, size, width)
        )
        head = _array_head(size)
        return _array_head(count) + b"".join(head + vector.tobytes() for vector in row)
    if vectors.dtype == np.uint8:
        return cbor2.dumps([vector.tobytes() for vector in vectors])
    return cbor2.dumps(vectors.tolist())


def _array_head(size: int) -> bytes:
    """Return the head of a CBOR array."""
    return b"\x9a" + size.to_bytes(4, "big")


async def encode_arrow(call: Call) -> Response:
    """Return an Arrow stream with the columns of the request's stream and the vectors of its texts."""
    try:
        from ...arrow import streams
    except ModuleNotFoundError as error:
        raise MediaTypeError(
            "this server cannot read Arrow streams, because pyarrow is not installed on it: "
            "pip install 'longbow-fletcher[flight]'"
        ) from error

    options = query_options(call)
    body = await call.body()
    loop = asyncio.get_running_loop()
    plain = streams.measure(body, call.limits.body_bytes, call.limits.most_items(MAX_ROWS))
    call.limits.budget.hold(READ_COPIES * plain, call.draft)
    batches, texts, _ = await loop.run_in_executor(None, streams.read_arrow, body, options)
    call.items = "row {}".format
    first: Embeddings | TextOutputs
    version, first = await call.ask(
        options.model, Texts(tuple(texts[0]) if texts else ()), options.embed, options.output
    )
    call.stay_in_space()
    received = batches[0].schema if batches else streams.read_schema(body)
    schema = streams.output_schema(received, version.description, options.embed, call.draft.space, options.output)
    answers: list[Embeddings | TextOutputs] = [first] if texts else []
    done = len(first)
    for part in texts[1:]:
        inputs = Texts(tuple(part))
        answers.append((await call.ask(options.model, inputs, options.embed, options.output, first=done))[1])
        done += len(part)
    call.limits.budget.hold(
        COPIES * sum(batch.nbytes for batch in batches) + COPIES * sum(part.nbytes for part in answers),
        call.draft,
    )
    answer = await loop.run_in_executor(None, streams.write_arrow, schema, batches, answers)
    return Response(200, answer, ARROW.encode(), density="raw")


def encode_routes() -> list[Route]:
    """Return the routes."""
    binary = {"type": "string", "format": "binary"}
    return [
        Route(
            "POST",
            "/encode",
            encode,
            Doc(
                "encode",
                "Embed a CBOR array of texts; the answer is a CBOR array of vectors",
                requests={CBOR: binary},
                answers={CBOR: binary},
                query=ArrowOptions,
                headers=TOKEN_HEADERS,
                errors=(404,),
            ),
        ),
        Route(
            "POST",
            "/encode/arrow",
            encode_arrow,
            Doc(
                "encodeArrow",
                "Embed the texts of an Arrow IPC stream; the answer is the same stream with vectors",
                requests={ARROW: binary},
                answers={ARROW: binary},
                query=ArrowOptions,
                errors=(404,),
            ),
        ),
    ]
