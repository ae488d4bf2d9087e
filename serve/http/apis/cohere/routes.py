"""Route of the Cohere v2 API: `/v2/embed`."""

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
from ...route import Doc, Route
from .errors import COHERE
from .types import MAX_TEXTS, ApiVersion, ByType, CohereMeta, CohereRequest, CohereResponse, Tokens

__all__ = ["cohere_routes"]

_decoder = msgspec.json.Decoder(CohereRequest)

INPUT_TYPES = {"search_document": "document", "search_query": "query"}
#: Names for `Call.fields`.
FIELDS = {"dimensions": "output_dimension"}

OVERFLOWS: dict[str, Overflow] = {"NONE": "refuse", "START": "truncate_left", "END": "truncate"}


async def embed(call: Call) -> Response:
    """Embed texts, and return the vectors in each requested type."""
    request = decode(_decoder, await call.body())
    call.fields = FIELDS
    texts = _texts(call, request)
    kinds = list(dict.fromkeys(request.embedding_types or ["float"]))
    version = call.models.pick(request.model)
    if request.max_tokens is not None and request.max_tokens < version.description.max_tokens:
        raise FieldError(
            f"max_tokens is {request.max_tokens}, but this model always reads up to "
            f"{version.description.max_tokens} tokens: for shorter "
            "windows use `overflow` and `window_tokens`",
            "max_tokens",
        )
    size = request.output_dimension or version.description.dimension
    if size % 8 and not {"binary", "ubinary"}.isdisjoint(kinds):
        raise FieldError(
            f"binary vectors hold eight elements in a byte; {size} dimensions are not a multiple of 8",
            "embedding_types",
        )
    options = EmbedOptions(
        input_type=INPUT_TYPES.get(request.input_type, request.input_type),
        dimensions=request.output_dimension,
        overflow=request.overflow or OVERFLOWS[request.truncate],
        window_tokens=request.window_tokens,
        overlap_tokens=request.overlap_tokens,
        chunk_tokens=request.chunk_tokens,
        normalize=request.normalize,
    )
    _, embeddings = await call.ask(request.model, Texts(tuple(texts)), options)
    by_type: dict[str, Any] = {}
    scales = None
    for kind in kinds:
        by_type["floats" if kind == "float" else kind], kind_scales = _as(embeddings.vectors, kind)
        scales = kind_scales or scales
    used = Tokens(int(embeddings.tokens.sum()))
    meta = CohereMeta(
        api_version=ApiVersion(),
        billed_units=used,
        tokens=used,
        tokens_seen=embeddings.tokens.tolist(),
        tokens_dropped=embeddings.dropped.tolist(),
        space=call.draft.space,
        scales=scales,
    )
    answer = CohereResponse(id=call.draft.id, embeddings=ByType(**by_type), texts=texts, meta=meta)
    return Response(200, msgspec.json.encode(answer))


def _texts(call: Call, request: CohereRequest) -> list[str]:
    if (request.texts is None) == (request.inputs is None):
        raise FieldError("the request must have exactly one of texts and inputs", "texts")
    texts, field = request.texts, "texts"
    if texts is None:
        field = "inputs"
        texts = ["".join(part.text for part in item.content) for item in request.inputs or ()]
    most = call.limits.most_items(MAX_TEXTS)
    if not 0 < len(texts) <= most:
        raise FieldError(f"{field} has {len(texts)} items; it must have 1 to {most}", field)
    return texts


def _as(vectors: Any, kind: str) -> tuple[Any, list[float] | None]:
    """Return the vectors in one of the types of Cohere, and the scales of int8 and uint8 vectors."""
    if kind == "float":
        return vectors.tolist(), None
    if kind == "base64":
        return [row.tobytes() for row in little_endian(vectors)], None
    if kind in ("binary", "ubinary"):
        bits = cast(vectors, "ubinary")[0]
        # The signed form of Cohere and sentence-transformers is the unsigned form minus 128.
        return (bits if kind == "ubinary" else bits.astype(np.int16) - 128).tolist(), None
    codes, scales = cast(vectors, "int8")
    elements = codes if kind == "int8" else codes.astype(np.int16) + 128
    return elements.tolist(), None if scales is None else scales.tolist()


def cohere_routes() -> list[Route]:
    """Return the routes."""
    doc = Doc(
        "cohereEmbed",
        "Cohere v2: embed texts; the answer has the vectors in each requested type",
        CohereRequest,
        CohereResponse,
        example={"model": "MODEL", "input_type": "search_document", "texts": ["a text"], "embedding_types": ["float"]},
        errors=(404,),
    )
    return [Route("POST", "/v2/embed", embed, doc, COHERE)]
