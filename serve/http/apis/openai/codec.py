"""OpenAI's embeddings API over the engine's words: bytes to inputs, embeddings to bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from numpy.typing import NDArray

from fletcher.runtime import Embeddings
from fletcher.runtime.encodings import Chunks

from ....errors import FieldError
from ....models.description import ServedModel
from ...json import SLICE_ROWS, decode, little_endian
from .types import (
    MAX_INPUTS,
    ChunkItem,
    EmbeddingItem,
    EmbeddingList,
    EmbeddingRequest,
    Model,
    ModelList,
    Usage,
    Vector,
)

__all__ = ["Inputs", "decode_request", "describe", "encode_embeddings", "item_maker", "list_models", "read_inputs"]

_decoder = msgspec.json.Decoder(EmbeddingRequest)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Inputs:
    """A request's input; exactly one of the two is set.

    Attributes:
        texts: texts to tokenize.
        ids: token ids that the client made.
    """

    texts: Sequence[str] | None
    ids: Sequence[Sequence[int]] | None


def decode_request(body: bytes) -> EmbeddingRequest:
    """Reads a request's body.

    Raises:
        FieldError: not JSON, or not a request; names the field.
    """
    return decode(_decoder, body)


def read_inputs(request: EmbeddingRequest, most: int = MAX_INPUTS) -> Inputs:
    """Tells the four shapes of `input` apart.

    Args:
        request: the client's.
        most: items that it may have.

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
    if len(value) > most:
        raise FieldError(f"input has {len(value)} items; a request may have {most}: send several", "input")
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
    total = int(embeddings.tokens.sum())
    items = item_maker(embeddings, encoding_format)
    count = len(embeddings)
    usage = Usage(prompt_tokens=total, total_tokens=total)
    if count <= SLICE_ROWS:
        yield _encoder.encode(EmbeddingList(data=items(0, count), model=model, usage=usage))
        return
    # A quote inside a JSON string is escaped, so this is found once, where the list stands.
    head, tail = _encoder.encode(EmbeddingList(data=[], model=model, usage=usage)).split(b'"data":[]', 1)
    yield head + b'"data":['
    for start in range(0, count, SLICE_ROWS):
        yield _encoder.encode(items(start, min(start + SLICE_ROWS, count)))[1:-1]
        if start + SLICE_ROWS < count:
            yield b","
    yield b"]" + tail


def item_maker(embeddings: Embeddings, encoding_format: str) -> Callable[[int, int], list[EmbeddingItem]]:
    """What makes the items of a range of texts."""
    tokens = embeddings.tokens.tolist()
    dropped = embeddings.dropped.tolist()
    binary = encoding_format == "base64"
    vectors = little_endian(embeddings.vectors) if binary else embeddings.vectors
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

    return items


def _chunks(chunks: Chunks, text: int, *, binary: bool) -> list[ChunkItem]:
    """The parts of one text."""
    rows = slice(*chunks.offsets[text : text + 2].tolist())
    vectors = little_endian(chunks.vectors[rows]) if binary else chunks.vectors[rows]
    scales = [None] * len(vectors) if chunks.scales is None else chunks.scales[rows].tolist()
    return [
        ChunkItem(embedding=value, start=start, end=end, scale=scale)
        for value, (start, end), scale in zip(
            _values(vectors, binary=binary), chunks.spans[rows].tolist(), scales, strict=True
        )
    ]


def _values(vectors: NDArray[Any], *, binary: bool) -> list[Vector]:
    return [row.tobytes() for row in vectors] if binary else vectors.tolist()


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
        output=model.output,
        version=model.version,
        names=sorted(model.names),
    )


def list_models(models: Sequence[ServedModel]) -> ModelList:
    """The models as `/v1/models` gives them."""
    return ModelList(data=[describe(model) for model in models])
