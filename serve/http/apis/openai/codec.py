"""Codec of the OpenAI API: it reads `input` and encodes answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import cast

import msgspec

from fletcher.runtime import Embeddings, TextOutputs
from fletcher.runtime.inputs import Texts, TokenIds
from fletcher.runtime.tasks.further_outputs import FURTHER

from ....errors import FieldError
from ....models.description import ModelDescription
from ...call import Limits
from ...embedding_items import EmbeddingItem, Usage, embedding_items, further_items
from ...json import INLINE_VALUES, SLICE_ROWS, gather
from .types import MAX_INPUTS, EmbeddingBody, EmbeddingList, Model, ModelList

__all__ = ["describe", "encode_embeddings", "encode_outputs", "list_models", "read_inputs"]

_encoder = msgspec.json.Encoder()


def read_inputs(request: EmbeddingBody, limits: Limits | None) -> Texts | TokenIds:
    """Return the input of the request, which has one of four shapes.

    Args:
        request: the client's request.
        limits: limits of the request; None for a streamed request, which has a separate limit.

    Raises:
        FieldError: the input is empty, has too many items, or mixes types.
    """
    value = request.input
    if isinstance(value, str):
        return Texts((value,))
    if not value:
        raise FieldError("input is an empty list: give at least one text", "input")
    kind = type(value[0])
    if kind is int:
        _check_kind(value, int, "a list of token ids must hold only integers")
        return TokenIds([cast(list[int], value)], request.special_tokens is not False)
    if limits is not None and len(value) > (most := limits.most_items(MAX_INPUTS)):
        raise FieldError(f"input has {len(value)} items; the limit is {most}: send several requests", "input")
    if kind is str:
        _check_kind(value, str, "a list of texts must hold only strings")
        return Texts(tuple(cast(list[str], value)))
    _check_kind(value, list, "a list of token id lists must hold only lists")
    rows = cast(list[list[int]], value)
    if [] in rows:
        index = rows.index([])
        raise FieldError(f"input[{index}] is an empty list of token ids", f"input[{index}]")
    return TokenIds(rows, request.special_tokens is not False)


def _check_kind(items: Sequence[object], kind: type, rule: str) -> None:
    for index, item in enumerate(items):
        if type(item) is not kind:
            raise FieldError(f"input[{index}] has another type than input[0]: {rule}", f"input[{index}]")


async def encode_outputs(
    outputs: TextOutputs, model: str, space: str, encoding_format: str
) -> bytes | AsyncIterator[bytes]:
    """Return the body of the answer to a request that includes further outputs; see `encode_embeddings`."""
    total = int(outputs.tokens.sum())
    usage = Usage(prompt_tokens=total, total_tokens=total)
    answer = EmbeddingList(data=[], model=model, usage=usage, space=space)
    binary = encoding_format == "base64"
    slices = (further_items(outputs, row, row + 1, binary=binary) for row in range(len(outputs)))
    tokens = outputs.token_vectors
    return await gather(_joined(slices, answer), 0 if tokens is None else tokens.vectors.size)


async def encode_embeddings(
    embeddings: Embeddings, model: str, space: str, encoding_format: str
) -> bytes | AsyncIterator[bytes]:
    """Return the body of the answer. The event loop serves other requests while a long answer is encoded.

    Args:
        embeddings: answer of the engine.
        model: name of the model in the answer.
        space: identifier of the vectors' space.
        encoding_format: `float` or `base64`.
    """
    total = sum(embeddings.tokens.tolist())
    usage = Usage(prompt_tokens=total, total_tokens=total)
    count = len(embeddings.vectors)
    values = 0 if embeddings.chunks is None else embeddings.chunks.vectors.size
    if count > SLICE_ROWS or values > INLINE_VALUES:
        answer = EmbeddingList(data=[], model=model, usage=usage, space=space)
        return await gather(_slices(embeddings, answer, binary=encoding_format == "base64"), values)
    items = embedding_items(embeddings, 0, count, binary=encoding_format == "base64")
    return _encoder.encode(EmbeddingList(data=items, model=model, usage=usage, space=space))


def _slices(embeddings: Embeddings, answer: EmbeddingList, *, binary: bool) -> Iterator[bytes]:
    """Return the body of a long answer in parts.

    Args:
        embeddings: answer of the engine.
        answer: the answer without its items.
        binary: True to encode vectors as base64 instead of numbers.
    """
    count = len(embeddings.vectors)
    starts = range(0, count, SLICE_ROWS)
    slices = (embedding_items(embeddings, start, min(start + SLICE_ROWS, count), binary=binary) for start in starts)
    return _joined(slices, answer)


def _joined(slices: Iterator[list[EmbeddingItem]], answer: EmbeddingList) -> Iterator[bytes]:
    """Yield the body of an answer, with the slices of its items."""
    # A quote inside a JSON string is escaped, so this sequence occurs only once, at the list.
    head, tail = _encoder.encode(answer).split(b'"data":[]', 1)
    mark = head + b'"data":['
    for items in slices:
        yield mark + _encoder.encode(items)[1:-1]
        mark = b","
    yield (mark if mark != b"," else b"") + b"]" + tail


def describe(model: ModelDescription) -> Model:
    """Return the description of a model for `/v1/models/{id}`."""
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
        canary=model.canary,
        proof=model.proof,
        space=model.space,
        bounds=model.bounds,
        similarity=model.similarity or msgspec.UNSET,
        includes=[kind for kind in FURTHER if kind in model.further] or msgspec.UNSET,
        token_dimension=model.token_dimension or msgspec.UNSET,
    )


def list_models(models: Sequence[ModelDescription]) -> ModelList:
    """Return the list of models for `/v1/models`."""
    return ModelList(data=[describe(model) for model in models])
