"""OpenAI's embeddings API over the engine's words: bytes to inputs, embeddings to bytes, errors to OpenAI's error object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Embeddings
from fletcher.runtime.encodings import Chunks
from fletcher.runtime.errors import FletcherError, OptionError

from .errors import FieldError, UnknownModelError
from .openai_types import (
    MAX_INPUTS,
    ChunkItem,
    EmbeddingItem,
    EmbeddingList,
    EmbeddingRequest,
    ErrorBody,
    ErrorDetail,
    Model,
    ModelList,
    Usage,
    Vector,
)
from .served import ServedModel
from .statuses import public_message, status_of

__all__ = ["Inputs", "decode_request", "describe", "encode_embeddings", "encode_error", "list_models", "read_inputs"]

#: Rows encoded between two looks at the event loop: 64 of 1,024 floats take about 3 ms.
SLICE_ROWS = 64

_decoder = msgspec.json.Decoder(EmbeddingRequest)
_encoder = msgspec.json.Encoder()
_path = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<where>[^`]*)`$", re.DOTALL)
_named = re.compile(r"(?:unknown|missing required) field `(?P<field>.*)`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A request's input; exactly one of the two is set.

    Attributes:
        texts: texts to tokenise.
        ids: token ids that the client made.
    """

    texts: Sequence[str] | None
    ids: Sequence[Sequence[int]] | None


def decode_request(body: bytes) -> EmbeddingRequest:
    """Reads a request's body.

    Raises:
        FieldError: not JSON, or not a request; names the field.
    """
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        message, field = str(error), None
        if match := _path.match(message):
            message, field = match["what"], match["where"] or None
        elif match := _named.search(message):
            field = match["field"]
        raise FieldError(f"{field or 'the body'}: {message}", field) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FieldError(f"the body is not valid JSON in UTF-8: {error}", None) from None


def read_inputs(request: EmbeddingRequest) -> Inputs:
    """Tells the four shapes of `input` apart.

    Raises:
        FieldError: it is empty, too long, or mixed.
    """
    value = request.input
    if isinstance(value, str):
        return Inputs([value], None)
    if not value:
        raise FieldError("input is an empty list: give at least one text", "input")
    kind = type(value[0])
    if kind is int:
        _check_kind(value, int, "a list of token ids holds integers only")
        return Inputs(None, [cast(list[int], value)])
    if len(value) > MAX_INPUTS:
        raise FieldError(f"input has {len(value)} items; a request may have {MAX_INPUTS}: send several", "input")
    if kind is str:
        _check_kind(value, str, "a list of texts holds strings only")
        return Inputs(cast(list[str], value), None)
    _check_kind(value, list, "a list of token id lists holds lists only")
    rows = cast(list[list[int]], value)
    if [] in rows:
        index = rows.index([])
        raise FieldError(f"input[{index}] is an empty list of token ids", f"input[{index}]")
    return Inputs(None, rows)


def _check_kind(items: Sequence[object], kind: type, rule: str) -> None:
    for index, item in enumerate(items):
        if type(item) is not kind:
            raise FieldError(f"input[{index}] is of another kind than input[0]: {rule}", f"input[{index}]")


def encode_embeddings(embeddings: Embeddings, model: str, encoding_format: str) -> Iterator[bytes]:
    """The answer's body, in pieces that each take a few milliseconds at most.

    Args:
        embeddings: what the engine gave.
        model: the name to answer with.
        encoding_format: `float` or `base64`.
    """
    tokens = embeddings.tokens.tolist()
    dropped = embeddings.dropped.tolist()
    total = sum(tokens)
    binary = encoding_format == "base64"
    vectors = _little_endian(embeddings.vectors) if binary else embeddings.vectors
    scales = None if embeddings.scales is None else embeddings.scales.tolist()

    def items(start: int, end: int) -> list[EmbeddingItem]:
        return [
            EmbeddingItem(
                object="embedding",
                index=index,
                embedding=value,
                tokens_seen=tokens[index],
                tokens_dropped=dropped[index],
                scale=None if scales is None else scales[index],
                chunks=None if embeddings.chunks is None else _chunks(embeddings.chunks, index, binary=binary),
            )
            for index, value in enumerate(_values(vectors[start:end], binary=binary), start)
        ]

    usage = Usage(prompt_tokens=total, total_tokens=total)
    if len(tokens) <= SLICE_ROWS:
        yield _encoder.encode(EmbeddingList(data=items(0, len(tokens)), model=model, usage=usage))
        return
    # A quote inside a JSON string is escaped, so this is found once, where the list stands.
    head, tail = _encoder.encode(EmbeddingList(data=[], model=model, usage=usage)).split(b'"data":[]', 1)
    yield head + b'"data":['
    for start in range(0, len(tokens), SLICE_ROWS):
        yield _encoder.encode(items(start, min(start + SLICE_ROWS, len(tokens))))[1:-1]
        if start + SLICE_ROWS < len(tokens):
            yield b","
    yield b"]" + tail


def _chunks(chunks: Chunks, text: int, *, binary: bool) -> list[ChunkItem]:
    """The parts of one text."""
    rows = slice(*chunks.offsets[text : text + 2].tolist())
    vectors = _little_endian(chunks.vectors[rows]) if binary else chunks.vectors[rows]
    scales = [None] * len(vectors) if chunks.scales is None else chunks.scales[rows].tolist()
    return [
        ChunkItem(embedding=value, start=start, end=end, scale=scale)
        for value, (start, end), scale in zip(
            _values(vectors, binary=binary), chunks.spans[rows].tolist(), scales, strict=True
        )
    ]


def _values(vectors: NDArray[Any], *, binary: bool) -> list[Vector]:
    return [row.tobytes() for row in vectors] if binary else vectors.tolist()


def _little_endian(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(vectors, vectors.dtype.newbyteorder("<"))


def describe(model: ServedModel) -> Model:
    """A model as `/v1/models/{id}` gives it."""
    return Model(
        id=model.name,
        created=model.loaded,
        owned_by="fletcher",
        dimension=model.dimension,
        dimensions=list(model.dimensions),
        max_tokens=model.max_tokens,
        input_types=list(model.input_types),
        variant=model.variant,
        provider=model.provider,
        digest=model.digest,
    )


def list_models(model: ServedModel) -> ModelList:
    """The models as `/v1/models` gives them."""
    return ModelList(data=[describe(model)])


def encode_error(error: FletcherError) -> bytes:
    """An error's body."""
    status = status_of(error)
    field = (
        error.field
        if isinstance(error, FieldError | OptionError)
        else "model"
        if isinstance(error, UnknownModelError)
        else None
    )
    detail = ErrorDetail(message=public_message(error), type=status.kind, param=field, code=status.code)
    return _encoder.encode(ErrorBody(error=detail))
