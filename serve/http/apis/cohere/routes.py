"""Routes of the Cohere API: `/v1/embed` and `/v2/embed`, `/v1/rerank` (also of Jina and Voyage) and `/v2/rerank`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np

from fletcher.runtime import Embeddings, TextOutputs
from fletcher.runtime.inputs import Requested, Texts
from fletcher.runtime.options.embed import EmbedOptions, Overflow
from fletcher.runtime.tasks.further_outputs import FURTHER, ORDER
from fletcher.runtime.tasks.postprocess import cast

from ....errors import FieldError
from ....json_bodies import decode
from ...call import Call, Response
from ...embedding_items import sparse_values, token_items
from ...json import json_rows, little_endian
from ...route import Doc, Route
from ..answers import TOKEN_HEADERS, token_headers
from ..foreign_fields import RANKING, schemas, translate
from ..ranking import AnswerForm, RankAnswer, RankRequest, answer_of, rank, texts_of_documents
from .errors import COHERE, RANKING_ERRORS
from .types import (
    MAX_TEXTS,
    ApiVersion,
    ByType,
    CohereBody,
    CohereFloats,
    CohereMeta,
    CohereRequest,
    CohereResponse,
    CohereV1Request,
    Tokens,
)

__all__ = ["cohere_routes"]

_decoder = msgspec.json.Decoder(CohereRequest)
_decoder_v1 = msgspec.json.Decoder(CohereV1Request)
_ranking = msgspec.json.Decoder(RankRequest)

#: Names for `Call.fields`.
FIELDS = {"dimensions": "output_dimension"}

OVERFLOWS: dict[str, Overflow] = {"NONE": "refuse", "START": "truncate_left", "END": "truncate"}

#: Forms of the answers of the two routes of rankings.
V1_RANKING = AnswerForm(api_version="1", documents=True, voyage=True)
V2_RANKING = AnswerForm(api_version="2", documents=False, voyage=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Vectors by type, the texts, and the token counts."""

    vectors: ByType
    texts: list[str]
    meta: CohereMeta


async def embed(call: Call) -> Response:
    """Embed texts, and return the vectors in each requested type."""
    request = decode(_decoder, await call.body())
    answer = await _embed(call, request, request.model, request.input_type, "2")
    response = CohereResponse(id=call.draft.id, embeddings=answer.vectors, texts=answer.texts, meta=answer.meta)
    return Response(200, msgspec.json.encode(response))


async def embed_v1(call: Call) -> Response:
    """Embed texts, and return a list of vectors, or the vectors in each requested type."""
    request = decode(_decoder_v1, await call.body())
    answer = await _embed(call, request, request.model, request.input_type, "1")
    parts: dict[str, Any] = {"id": call.draft.id, "texts": answer.texts, "meta": answer.meta}
    response: CohereFloats | CohereResponse
    if request.embedding_types is None:
        response = CohereFloats(embeddings=answer.vectors.floats or [], **parts)
    else:
        response = CohereResponse(embeddings=answer.vectors, **parts)
    return Response(200, msgspec.json.encode(response))


async def _embed(
    call: Call, request: CohereBody, model: str | None, input_type: str | None, version: Literal["1", "2"]
) -> _Answer:
    call.fields = FIELDS | {"input": "texts" if request.inputs is None else "inputs"}
    texts = _texts(call, request)
    kinds: list[str] = list(dict.fromkeys(request.embedding_types or ["float"]))
    described = call.pick(model).description
    if request.max_tokens is not None and request.max_tokens < described.max_tokens:
        raise FieldError(
            f"max_tokens is {request.max_tokens}, but this model always reads up to "
            f"{described.max_tokens} tokens: for shorter windows use `overflow` and `window_tokens`",
            "max_tokens",
        )
    size = request.output_dimension or described.dimension
    if size % 8 and not {"binary", "ubinary"}.isdisjoint(kinds):
        raise FieldError(
            f"binary vectors hold eight elements in a byte; {size} dimensions are not a multiple of 8",
            "embedding_types",
        )
    options = EmbedOptions(
        input_type=input_type,
        dimensions=request.output_dimension,
        overflow=request.overflow or OVERFLOWS[request.truncate],
        window_tokens=request.window_tokens,
        overlap_tokens=request.overlap_tokens,
        chunk_tokens=request.chunk_tokens,
        normalize=request.normalize,
    )
    dense = [kind for kind in kinds if kind not in FURTHER]
    requested: Requested = "vectors" if len(dense) == len(kinds) else _requested(kinds, dense)
    embeddings: Embeddings | TextOutputs
    _, embeddings = await call.ask(model, Texts(tuple(texts)), options, requested)
    by_type = {} if isinstance(embeddings, Embeddings) else _further(embeddings)
    vectors = embeddings.vectors
    scales = None
    for kind in dense:
        values = vectors.vectors if isinstance(vectors, Embeddings) else vectors
        by_type["floats" if kind == "float" else kind], kind_scales = _as(values, kind)
        scales = kind_scales or scales
    used = Tokens(int(embeddings.tokens.sum()))
    meta = CohereMeta(
        api_version=ApiVersion(version),
        billed_units=used,
        tokens=used,
        tokens_seen=embeddings.tokens.tolist(),
        tokens_dropped=embeddings.dropped.tolist(),
        space=call.draft.space,
        scales=scales,
    )
    return _Answer(ByType(**by_type), texts, meta)


def _requested(kinds: list[str], dense: list[str]) -> Requested:
    """Return the outputs of a request for further outputs, with or without vectors."""
    return tuple(output for output in ORDER if output in kinds or (output == "vectors" and dense))


def _further(outputs: TextOutputs) -> dict[str, Any]:
    """Return the further outputs by type."""
    by_type: dict[str, Any] = {}
    texts = range(len(outputs))
    if outputs.sparse is not None:
        by_type["sparse"] = [sparse_values(outputs.sparse, text) for text in texts]
    if outputs.token_vectors is not None:
        by_type["token_vectors"] = [token_items(outputs.token_vectors, text, binary=False) for text in texts]
    return by_type


def _texts(call: Call, request: CohereBody) -> list[str]:
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
        return json_rows(vectors), None
    if kind == "base64":
        return [row.tobytes() for row in little_endian(vectors)], None
    if kind in ("binary", "ubinary"):
        bits = cast(vectors, "ubinary")[0]
        # The signed form of Cohere and sentence-transformers is the unsigned form minus 128.
        return (bits if kind == "ubinary" else bits.astype(np.int16) - 128).tolist(), None
    codes, scales = cast(vectors, "int8")
    elements = codes if kind == "int8" else codes.astype(np.int16) + 128
    return elements.tolist(), None if scales is None else scales.tolist()


async def rerank_v1(call: Call) -> Response:
    """Rank documents; the answer has the lists of Cohere, Jina and Voyage."""
    return await _rerank(call, V1_RANKING)


async def rerank_v2(call: Call) -> Response:
    """Rank documents."""
    return await _rerank(call, V2_RANKING)


async def _rerank(call: Call, form: AnswerForm) -> Response:
    request = decode(_ranking, await call.body(), partial(translate, RANKING, call))
    texts = texts_of_documents(request.documents)
    ranking = await rank(call, request, texts, "documents")
    headers = token_headers(ranking.scores.tokens, ranking.scores.dropped)
    return Response(200, msgspec.json.encode(answer_of(call, request, texts, ranking, form)), headers=headers)


def cohere_routes() -> list[Route]:
    """Return the routes."""
    example = {"model": "MODEL", "input_type": "search_document", "texts": ["a text"], "embedding_types": ["float"]}
    documents = {"model": "MODEL", "query": "a question", "documents": ["an answer", "another"], "top_n": 1}
    ranking: dict[str, Any] = {
        "errors": (404,),
        "headers": TOKEN_HEADERS,
        "foreign": schemas(RANKING),
        "example": documents,
    }
    return [
        Route(
            "POST",
            "/v2/embed",
            embed,
            Doc(
                "cohereEmbed",
                "Cohere v2: embed texts; the answer has the vectors in each requested type",
                CohereRequest,
                CohereResponse,
                example=example,
                errors=(404,),
            ),
            COHERE,
        ),
        Route(
            "POST",
            "/v1/embed",
            embed_v1,
            Doc(
                "cohereEmbedV1",
                "Cohere v1: embed texts; the answer has a list of vectors, or the vectors in each requested type",
                CohereV1Request,
                (CohereFloats, CohereResponse),
                example={"model": "MODEL", "input_type": "search_document", "texts": ["a text"]},
                errors=(404,),
            ),
            COHERE,
        ),
        Route(
            "POST",
            "/v1/rerank",
            rerank_v1,
            Doc(
                "rerankV1",
                "Cohere v1, Jina, Voyage, vLLM: sort documents by their relevance to a query",
                RankRequest,
                RankAnswer,
                text="`results` is the list of Cohere, Jina and vLLM, `data` that of Voyage. Documents are returned in "
                "`results` unless `return_documents` is false, and in `data` if it is true.",
                **ranking,
            ),
            RANKING_ERRORS,
        ),
        Route(
            "POST",
            "/v2/rerank",
            rerank_v2,
            Doc(
                "rerankV2",
                "Cohere v2: sort documents by their relevance to a query",
                RankRequest,
                RankAnswer,
                **ranking,
            ),
            RANKING_ERRORS,
        ),
    ]
