"""Route `/v1/score` of vLLM: one score for each pair of texts."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fletcher.runtime.inputs import Pairs
from fletcher.runtime.tasks.sigmoids import sigmoid_scores

from ....errors import FieldError
from ....json_bodies import decode
from ...call import Call, Response
from ...embedding_items import Usage
from ...route import Doc, Route
from ..answers import TOKEN_HEADERS, Texts, check_count, token_headers
from ..foreign_fields import RANKING, schemas, translate
from ..ranking import score_pairs

__all__ = ["vllm_routes"]


class ScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /v1/score`. Each side has a text, or as many texts as the other side."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Annotated[Texts | None, Meta(description="Other name of `text_1`.")] = None
    documents: Annotated[Texts | None, Meta(description="Other name of `text_2`.")] = None
    truncate: Annotated[bool | None, Meta(description="false rejects a pair that is too long. Default: true.")] = None
    raw_scores: Annotated[bool, Meta(description="Return logits instead of their sigmoids.")] = False
    model: Annotated[
        str | None, Meta(description="Name of a served model. Default: the first model that gives scores.")
    ] = None


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Score of a pair."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `POST /v1/score`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: Usage


_decoder = msgspec.json.Decoder(ScoreRequest)


async def score(call: Call) -> Response:
    """Return the scores of pairs of texts, in order."""
    request = decode(_decoder, await call.body(), partial(translate, RANKING, call))
    pairs = _pairs(call, request)
    version, scores = await score_pairs(call, request.model, pairs, refuse=request.truncate is False)
    values = sigmoid_scores(scores.scores[:, 0], version.description.activation, raw=request.raw_scores)
    used = int(scores.tokens.sum())
    answer = ScoreList(
        id=call.draft.id,
        created=int(time.time()),
        model=version.description.name,
        data=[Score(index=index, score=value) for index, value in enumerate(values.tolist())],
        usage=Usage(prompt_tokens=used, total_tokens=used),
    )
    return Response(200, msgspec.json.encode(answer), headers=token_headers(scores.tokens, scores.dropped))


def _pairs(call: Call, request: ScoreRequest) -> Pairs:
    """Return the pairs: one text with each text of the other side, or the texts of both sides one by one.

    Raises:
        FieldError: a side is missing, is given twice, is empty, or has another number of texts than the other side.
    """
    first_name, first = _side(call, {"text_1": request.text_1, "queries": request.queries})
    second_name, second = _side(call, {"text_2": request.text_2, "documents": request.documents})
    call.fields = {**call.fields, "input": first_name if len(first) > len(second) else second_name}
    if len(first) == 1:
        return Pairs(first[0], tuple(second))
    if len(second) == 1:
        second = second * len(first)
    if len(first) != len(second):
        raise FieldError(
            f"{first_name} has {len(first)} texts and {second_name} has {len(second)}: send one text, or the same number",
            second_name,
        )
    return Pairs(tuple(first), tuple(second))


def _side(call: Call, fields: dict[str, str | list[str] | None]) -> tuple[str, list[str]]:
    """Return the name and the texts of a side, which has two names."""
    given = [(name, value) for name, value in fields.items() if value is not None]
    if len(given) != 1:
        first, second = fields
        raise FieldError(f"the request must have exactly one of {first} and {second}", first)
    name, value = given[0]
    texts = [value] if isinstance(value, str) else value
    check_count(call, len(texts), name)
    return name, texts


def vllm_routes() -> list[Route]:
    """Return the routes."""
    doc = Doc(
        "score",
        "vLLM: return a score for each pair of texts",
        ScoreRequest,
        ScoreList,
        example={"model": "MODEL", "text_1": "a question", "text_2": ["an answer", "another"]},
        errors=(404,),
        headers=TOKEN_HEADERS,
        foreign=schemas(RANKING),
    )
    return [Route("POST", "/v1/score", score, doc, also=("/score",))]
