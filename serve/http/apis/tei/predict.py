"""`POST /predict` of text-embeddings-inference: labels of texts or of pairs of texts, from a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fletcher.runtime import Scores
from fletcher.runtime.inputs import Inputs, Pairs, Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks.sigmoids import sigmoid_scores

from ....errors import EmptyError, FieldError
from ....json_bodies import decode
from ...call import Call, Response
from ..answers import MAX_INPUTS, check_count, token_headers
from ..foreign_fields import TEXTS, translate
from .types import Model, Truncate

__all__ = ["PredictRequest", "Prediction", "predict"]

_TEXT = {"type": "string"}


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Request of `POST /predict`."""

    inputs: Annotated[
        str | list[str | list[str]],
        Meta(
            description="A text, a pair of texts, or a list of one-element lists and pairs.",
            extra_json_schema={
                "oneOf": [
                    _TEXT,
                    {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2},
                    {
                        "type": "array",
                        "items": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2},
                        "minItems": 1,
                        "maxItems": MAX_INPUTS,
                    },
                ]
            },
        ),
    ]
    truncate: Truncate = None
    raw_scores: Annotated[bool, Meta(description="Return logits instead of probabilities.")] = False
    model: Model = None


class Prediction(msgspec.Struct, frozen=True):
    """Probability of a label."""

    score: float
    label: str


_predict = msgspec.json.Decoder(PredictRequest)


async def predict(call: Call) -> Response:
    """Return the labels of texts or of pairs, the most probable one first."""
    request = decode(_predict, await call.body(), partial(translate, TEXTS, call))
    rows, single = _rows(call, request.inputs)
    options = EmbedOptions(input_type="raw", overflow="refuse" if request.truncate is False else "truncate")
    version = call.pick(request.model, ("scores",))
    tokens, dropped = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int32)
    values = np.zeros((len(rows), version.description.dimension), np.float32)
    for length in {len(row) for row in rows}:
        chosen = [index for index, row in enumerate(rows) if len(row) == length]
        call.items = partial(_item, chosen, single=single)
        scores: Scores
        version, scores = await call.ask(request.model, _inputs([rows[index] for index in chosen]), options, "scores")
        values[chosen], tokens[chosen], dropped[chosen] = scores.scores, scores.tokens, scores.dropped
    labels = version.info.card.labels or tuple(f"LABEL_{index}" for index in range(values.shape[1]))
    shown = _probabilities(values, version.description.activation, raw=request.raw_scores)
    answer = [_sorted(row, labels) for row in shown]
    return Response(200, msgspec.json.encode(answer[0] if single else answer), headers=token_headers(tokens, dropped))


def _rows(call: Call, inputs: str | list[Any]) -> tuple[list[list[str]], bool]:
    """Return the texts of each row, one or two, and whether the request has a single row.

    A list of two strings is a pair, as in text-embeddings-inference.

    Raises:
        FieldError: the list is empty or too long, mixes strings and lists, or has a row of other than one or two texts.
    """
    if isinstance(inputs, str):
        return [[inputs]], True
    check_count(call, len(inputs), "inputs")
    single = isinstance(inputs[0], str)
    if any(isinstance(item, str) is not single for item in inputs):
        raise FieldError("inputs mixes strings and lists: send a pair, or a list of lists", "inputs")
    rows: list[list[str]] = [inputs] if single else inputs
    for index, row in enumerate(rows):
        field = "inputs" if single else f"inputs[{index}]"
        if not row:
            raise EmptyError(f"{field} is an empty list: give one or two texts", field)
        if len(row) > 2:
            raise FieldError(
                f"{field} has {len(row)} texts, but a row has one or two: send several texts as lists, "
                '[["a text"], ["another"]]',
                field,
            )
    return rows, single


def _item(chosen: Sequence[int], index: int, *, single: bool) -> str:
    """Return the name in the body of the engine's text of an index."""
    return "inputs" if single else f"inputs[{chosen[index]}]"


def _inputs(rows: list[list[str]]) -> Inputs:
    """Return rows of one length as the input of the model."""
    if len(rows[0]) == 1:
        return Texts(tuple(row[0] for row in rows))
    return Pairs(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def _probabilities(scores: NDArray[np.float32], activation: str | None, *, raw: bool) -> NDArray[np.float64]:
    """Return the softmax of several labels, or the sigmoid of a single one, as text-embeddings-inference does; or logits.

    Args:
        scores: scores after the activation function of the model, float32, (n, labels).
        activation: the activation function.
        raw: True for logits.
    """
    if raw or scores.shape[1] == 1:
        return sigmoid_scores(scores, activation, raw=raw)
    logits = sigmoid_scores(scores, activation, raw=True)
    powers: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _sorted(row: NDArray[np.float64], labels: tuple[str, ...]) -> list[Prediction]:
    order = np.argsort(-row, kind="stable").tolist()
    return [Prediction(float(row[index]), labels[index]) for index in order]
