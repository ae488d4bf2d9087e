"""Routes of the API of text-embeddings-inference (TEI), with their documentation; `handlers` has their handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...call import Call
from ...embedding_items import SparseValue
from ...ndjson import NDJSON
from ...route import Doc, Route
from ..answers import TOKEN_HEADERS
from ..foreign_fields import RANKING, TEXTS, schemas
from ..ranking import RankAnswer
from .errors import TEI
from .handlers import embed, embed_all, embed_sparse, info, rerank, similarity, tokenize
from .pooled import NORMALIZED
from .predict import Prediction, PredictRequest, predict
from .types import (
    AllItem,
    EmbedAllRequest,
    EmbedItem,
    EmbedRequest,
    Info,
    Rank,
    RerankRequest,
    SimilarityRequest,
    SparseRequest,
    Token,
    TokenizeRequest,
)

__all__ = ["tei_routes"]

NORMALIZED_TEXT = "`true` if `normalize` is false, but the model has only vectors of length 1"


def tei_routes() -> list[Route]:
    """Return the routes."""
    vectors = (list[list[float]], list[EmbedItem])
    everything = list[list[list[float]]]
    lines = {
        NDJSON.decode(): {
            "type": "string",
            "description": "One EmbeddingItem on each line; the last line has the usage",
        }
    }
    ranking: dict[str, Any] = {"errors": (404, 422, 424), "headers": TOKEN_HEADERS, "foreign": schemas(RANKING)}
    common = ranking | {"foreign": schemas(TEXTS)}

    def post(path: str, handler: Callable[[Call], Any], doc: Doc) -> Route:
        return Route("POST", path, handler, doc, TEI)

    return [
        post(
            "/embed",
            embed,
            Doc(
                "embed",
                "TEI: embed texts or token ids",
                EmbedRequest,
                vectors,
                answers=lines,
                example={"inputs": "a text"},
                **common | {"headers": {**TOKEN_HEADERS, NORMALIZED: NORMALIZED_TEXT}},
            ),
        ),
        post(
            "/embed_all",
            embed_all,
            Doc(
                "embedAll",
                "TEI: return a vector for each token",
                EmbedAllRequest,
                (everything, list[AllItem]),
                example={"inputs": "a text"},
                **common,
            ),
        ),
        post(
            "/embed_sparse",
            embed_sparse,
            Doc(
                "embedSparse",
                "TEI: return the weights of tokens (SPLADE)",
                SparseRequest,
                list[list[SparseValue]],
                example={"inputs": "a text"},
                **common,
            ),
        ),
        post(
            "/rerank",
            rerank,
            Doc(
                "rerank",
                "TEI: sort texts by their relevance to a query",
                RerankRequest,
                (list[Rank], RankAnswer),
                text="With `documents` instead of `texts`, the answer is that of Jina, vLLM and infinity.",
                example={"query": "a question", "texts": ["an answer", "another"]},
                **ranking,
            ),
        ),
        post(
            "/predict",
            predict,
            Doc(
                "predict",
                "TEI: return the labels of texts or of pairs of texts",
                PredictRequest,
                (list[Prediction], list[list[Prediction]]),
                example={"inputs": [["a text"], ["another"]]},
                **common,
            ),
        ),
        post(
            "/similarity",
            similarity,
            Doc(
                "similarity",
                "TEI: return the cosine similarities of one sentence to others",
                SimilarityRequest,
                list[float],
                example={"inputs": {"source_sentence": "a text", "sentences": ["another"]}},
                **common,
            ),
        ),
        post(
            "/tokenize",
            tokenize,
            Doc(
                "tokenize",
                "TEI: tokenize texts",
                TokenizeRequest,
                list[list[Token]],
                example={"inputs": "a text"},
                errors=(404, 422, 424),
                foreign=schemas(TEXTS),
            ),
        ),
        Route("POST", "/", embed, shape=TEI),  # the client of HuggingFace Hub uses this path
        Route(
            "GET",
            "/info",
            info,
            Doc("info", "TEI: describe the first model and the limits of the server", None, Info),
            TEI,
        ),
    ]
