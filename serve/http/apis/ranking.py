"""Ranking of documents by a reranker: the request and the answer that the APIs of Cohere, Jina, Voyage and vLLM share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fletcher.runtime import Scores
from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Pairs
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks.sigmoids import sigmoid_scores

from ...errors import FieldError
from ...models.version import ModelVersion
from ..call import Call
from ..embedding_items import Usage
from .answers import MAX_INPUTS, check_count
from .calibrated import calibration_of

__all__ = [
    "AnswerForm",
    "Documents",
    "RankAnswer",
    "RankRequest",
    "RankedDocument",
    "Ranking",
    "answer_of",
    "rank",
    "score_pairs",
    "texts_of_documents",
]


class RankedDocument(msgspec.Struct, frozen=True):
    """A document. Its other fields are not read."""

    text: str


Documents = Annotated[
    list[str | RankedDocument],
    Meta(
        description="Texts, or objects whose field `text` is read.",
        extra_json_schema={"minItems": 1, "maxItems": MAX_INPUTS},
    ),
]

TopN = Annotated[
    Annotated[int, Meta(ge=1)] | None, Meta(description="Number of results. Default: as many as there are documents.")
]

ReturnDocuments = Annotated[bool | None, Meta(description="Return the texts of the documents.")]

MaxTokens = Annotated[
    Annotated[int, Meta(ge=1)] | None,
    Meta(description="At least the limit of the model: a long pair is always cut at the model's own limit."),
]


class RankOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of all requests for a ranking."""

    query: str
    top_n: TopN = None
    return_documents: ReturnDocuments = None
    max_tokens_per_doc: MaxTokens = None
    truncate: Annotated[
        bool | Literal["END", "NONE"] | None,
        Meta(
            description="false and `NONE` reject a pair that is too long; true and `END` cut the end of its longer text. "
            "Default: true."
        ),
    ] = None
    raw_scores: Annotated[bool, Meta(description="Return logits instead of their sigmoids.")] = False
    calibrated: Annotated[
        bool, Meta(description="Return probabilities by the calibration of the model instead of sigmoids.")
    ] = False
    model: Annotated[
        str | None, Meta(description="Name of a served model. Default: the first model that gives scores.")
    ] = None


class RankRequest(RankOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /v1/rerank` and `POST /v2/rerank`."""

    documents: Documents


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Score of a document in the answers of Cohere, Jina and vLLM."""

    index: int
    relevance_score: float
    document: RankedDocument | None = None


class VoyageResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Score of a document in the answer of Voyage."""

    index: int
    relevance_score: float
    document: str | None = None


class RankVersion(msgspec.Struct, frozen=True):
    """Version of the Cohere API."""

    version: str


class RankUnits(msgspec.Struct, frozen=True):
    """Cohere's unit of a ranking: a query with up to 100 documents."""

    search_units: int


class RankTokens(msgspec.Struct, frozen=True):
    """Tokens of all pairs that the model saw."""

    input_tokens: int


class RankMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of the request and of each pair, in the order of the documents."""

    api_version: RankVersion
    billed_units: RankUnits
    tokens: RankTokens
    tokens_seen: list[int]
    tokens_dropped: list[int]


class RankAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Answer of a ranking: `results` as of Cohere, Jina and vLLM. `/v1/rerank` also returns Voyage's `data`."""

    id: str
    model: str
    results: list[Result]
    meta: RankMeta
    usage: Usage
    object: Annotated[
        str, Meta(description="`list` as in Voyage's answers on `/v1/rerank`, else `rerank` as in infinity's.")
    ]
    data: list[VoyageResult] | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores of documents.

    Attributes:
        version: the version of the model that answered.
        values: score of each document, float64, (n,).
        order: indices of the documents with the best scores, the best one first, at most `top_n`.
        scores: answer of the engine.
    """

    version: ModelVersion
    values: NDArray[np.float64]
    order: list[int]
    scores: Scores


async def rank(call: Call, request: RankOptions, texts: Sequence[str], field: str) -> Ranking:
    """Score documents for a query.

    Args:
        call: the request.
        request: its options.
        texts: the documents.
        field: name of the field that has the documents.

    Raises:
        FletcherError: the model does not rank, or as of `Call.ask`.
    """
    call.fields = {**call.fields, "input": field}
    check_count(call, len(texts), field)
    version = call.pick(request.model, ("scores",))
    if request.calibrated:
        calibration_of(version, "logit")
        if request.raw_scores:
            raise FieldError("raw_scores and calibrated contradict each other: leave one of them out", "calibrated")
    limit = version.description.max_tokens
    if request.max_tokens_per_doc is not None and request.max_tokens_per_doc < limit:
        raise FieldError(
            f"max_tokens_per_doc is {request.max_tokens_per_doc}, but a pair is always cut at the limit of "
            f"{version.description.name}, {limit} tokens: leave it out, or shorten the documents",
            "max_tokens_per_doc",
        )
    refuse = request.truncate is False or request.truncate == "NONE"
    version, scores = await score_pairs(call, request.model, Pairs(request.query, tuple(texts)), refuse=refuse)
    raw = request.raw_scores or request.calibrated
    values = sigmoid_scores(scores.scores[:, 0], version.description.activation, raw=raw)
    order = np.argsort(-values, kind="stable")[: request.top_n].tolist()
    if request.calibrated:
        values = calibration_of(version, "logit").apply(values)
    return Ranking(version, values, order, scores)


async def score_pairs(call: Call, model: str | None, pairs: Pairs, *, refuse: bool) -> tuple[ModelVersion, Scores]:
    """Return the scores of pairs of texts, one for each pair.

    Args:
        call: the request.
        model: name of the model, or None.
        pairs: the pairs.
        refuse: True to reject a pair that is too long.

    Raises:
        InputError: the model gives several scores for a pair.
        FletcherError: as of `Call.ask`.
    """
    version = call.pick(model, ("scores",))
    if version.description.dimension != 1:
        raise InputError(
            f"{version.description.name} returns {version.description.dimension} scores for each pair; ranking needs one: "
            "use /predict"
        )
    options = EmbedOptions(input_type="raw", overflow="refuse" if refuse else "truncate")
    return await call.ask(model, pairs, options, "scores")


def texts_of_documents(documents: Sequence[str | RankedDocument]) -> list[str]:
    """Return the texts of documents."""
    return [document if isinstance(document, str) else document.text for document in documents]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Form of the answer of a route.

    Attributes:
        api_version: version of the Cohere API, `1` or `2`.
        documents: whether to return the documents if the request does not say it.
        voyage: whether the answer also has the list of Voyage.
    """

    api_version: str
    documents: bool
    voyage: bool


def answer_of(call: Call, request: RankOptions, texts: Sequence[str], ranking: Ranking, form: AnswerForm) -> RankAnswer:
    """Return the answer to a request for a ranking.

    Voyage's list has documents only if the request asks for them.
    """
    scores, values = ranking.scores, ranking.values.tolist()
    used = int(scores.tokens.sum())
    with_documents = form.documents if request.return_documents is None else request.return_documents
    return RankAnswer(
        id=call.draft.id,
        model=ranking.version.description.name,
        results=[
            Result(
                index=index,
                relevance_score=values[index],
                document=RankedDocument(texts[index]) if with_documents else None,
            )
            for index in ranking.order
        ],
        meta=RankMeta(
            api_version=RankVersion(form.api_version),
            billed_units=RankUnits(-(-len(texts) // 100)),
            tokens=RankTokens(used),
            tokens_seen=scores.tokens.tolist(),
            tokens_dropped=scores.dropped.tolist(),
        ),
        usage=Usage(prompt_tokens=used, total_tokens=used),
        object="list" if form.voyage else "rerank",
        data=[
            VoyageResult(
                index=index,
                relevance_score=values[index],
                document=texts[index] if request.return_documents else None,
            )
            for index in ranking.order
        ]
        if form.voyage
        else None,
    )
