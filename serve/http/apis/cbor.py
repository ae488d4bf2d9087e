"""Routes for binary formats: `/encode` reads and returns CBOR, `/encode/arrow` reads and returns Arrow IPC."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl

import cbor2
import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Embeddings
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

CBOR = "application/cbor"
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
    body = await call.body()
    texts = read_cbor(body)
    call.items = "text {}".format
    most = call.limits.most_items(MAX_TEXTS)
    if len(texts) > most:
        raise FieldError(f"the request has {len(texts)} texts; the limit is {most}: send several requests", None)
    _, embeddings = await call.ask(options.model, Texts(tuple(texts)), options.embed)
    headers = token_headers(embeddings.tokens, embeddings.dropped)
    return Response(200, cbor_rows(embeddings.vectors), CBOR.encode(), headers, "raw")


def read_cbor(body: bytes) -> list[str]:
    """Return the texts of a CBOR array.

    Raises:
        FieldError: the body is not a CBOR array of texts.
    """
    try:
        value = cbor2.loads(body)
    except Exception as error:  # noqa: BLE001 - cbor2 raises MemoryError, RecursionError and OverflowError for malformed bodies
        raise FieldError(f"the body is not CBOR: {type(error).__name__}", None) from None
    if not isinstance(value, list) or not all(type(item) is str for item in value):
        raise FieldError("the body must be a CBOR array of text strings", None)
    return value


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
    batches, texts, column = await loop.run_in_executor(None, streams.read_arrow, body, options)
    total = sum(map(len, texts))
    most = call.limits.most_items(MAX_ROWS)
    if total > most:
        raise FieldError(
            f"the stream has {total} rows; the limit is {most}: send several requests, or use Flight", column
        )
    call.items = "row {}".format
    version, first = await call.ask(options.model, Texts(tuple(texts[0]) if texts else ()), options.embed)
    call.stay_in_space()
    received = batches[0].schema if batches else streams.read_schema(body)
    schema = streams.output_schema(received, version.description, options.embed, call.draft.space)
    answers: list[Embeddings] = [first] if texts else []
    done = len(first)
    for part in texts[1:]:
        answers.append((await call.ask(options.model, Texts(tuple(part)), options.embed, first=done))[1])
        done += len(part)
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
