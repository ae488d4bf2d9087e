"""Cohere v2's route: `/v2/embed`."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions, Overflow
from fletcher.runtime.tasks.postprocess import cast

from ....errors import FieldError
from ....json_bodies import decode
from ...call import Call, Response
from ...json import little_endian
from ...routes import Doc, Route
from .errors import COHERE
from .types import MAX_TEXTS, ApiVersion, ByType, CohereMeta, CohereRequest, CohereResponse, Tokens

__all__ = ["cohere_routes"]

_decoder = msgspec.json.Decoder(CohereRequest)

INPUT_TYPES = {"search_document": "document", "search_query": "query"}
OVERFLOWS: dict[str, Overflow] = {"NONE": "refuse", "START": "truncate_left", "END": "truncate"}


async def embed(call: Call) -> Response:
    """Texts to vectors of several types at once."""
    request = decode(_decoder, await call.body())
    texts = _texts(call, request)
    kinds = list(dict.fromkeys(request.embedding_types or ["float"]))
    version = call.models.pick(request.model)
    if request.max_tokens is not None and request.max_tokens < version.description.max_tokens:
        raise FieldError(
            f"max_tokens is {request.max_tokens}: this model always sees up to {version.description.max_tokens}; shorter "
            "windows are `overflow` and `window_tokens`",
            "max_tokens",
        )
    size = request.output_dimension or version.description.dimension
    if size % 8 and not {"binary", "ubinary"}.isdisjoint(kinds):
        raise FieldError(f"binary vectors pack eight elements in a byte; {size} is no multiple of 8", "embedding_types")
    options = EmbedOptions(
        input_type=INPUT_TYPES.get(request.input_type, request.input_type),
        dimensions=request.output_dimension,
        overflow=request.overflow or OVERFLOWS[request.truncate],
        window_tokens=request.window_tokens,
        overlap_tokens=request.overlap_tokens,
        chunk_tokens=request.chunk_tokens,
        normalize=request.normalize,
    )
    _, found = await call.ask(request.model, Texts(tuple(texts)), options)
    made: dict[str, Any] = {}
    scales = None
    for kind in kinds:
        made["floats" if kind == "float" else kind], found_scales = _as(found.vectors, kind)
        scales = found_scales or scales
    used = Tokens(int(found.tokens.sum()))
    meta = CohereMeta(
        api_version=ApiVersion(),
        billed_units=used,
        tokens=used,
        tokens_seen=found.tokens.tolist(),
        tokens_dropped=found.dropped.tolist(),
        scales=scales,
    )
    answer = CohereResponse(id=call.draft.id, embeddings=ByType(**made), texts=texts, meta=meta)
    return Response(200, msgspec.json.encode(answer))


def _texts(call: Call, request: CohereRequest) -> list[str]:
    if (request.texts is None) == (request.inputs is None):
        raise FieldError("give exactly one of texts and inputs", "texts")
    texts = request.texts
    if texts is None:
        texts = ["".join(part.text for part in item.content) for item in request.inputs or ()]
    most = call.limits.most_items(MAX_TEXTS)
    if not 0 < len(texts) <= most:
        raise FieldError(f"there are {len(texts)} texts; a request may have 1 to {most}", "texts")
    return texts


def _as(vectors: Any, kind: str) -> tuple[Any, list[float] | None]:
    """The vectors in one of Cohere's types; of int8 and uint8 the scales too."""
    if kind == "float":
        return vectors.tolist(), None
    if kind == "base64":
        return [row.tobytes() for row in little_endian(vectors)], None
    if kind in ("binary", "ubinary"):
        bits = cast(vectors, "ubinary")[0]
        # Cohere's and sentence-transformers' signed form is the unsigned one less 128.
        return (bits if kind == "ubinary" else bits.astype(np.int16) - 128).tolist(), None
    codes, scales = cast(vectors, "int8")
    whole = codes if kind == "int8" else codes.astype(np.int16) + 128
    return whole.tolist(), None if scales is None else scales.tolist()


def cohere_routes() -> list[Route]:
    """The routes."""
    doc = Doc(
        "cohereEmbed",
        "Cohere v2: texts to vectors of several types",
        CohereRequest,
        CohereResponse,
        example={"model": "MODEL", "input_type": "search_document", "texts": ["a text"], "embedding_types": ["float"]},
        errors=(404,),
    )
    return [Route("POST", "/v2/embed", embed, doc, COHERE)]
