"""Comparison of an artifact's further outputs (BGE-M3) with the reference's, through the method that its users call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import Accuracy, Output
from fletcher.runtime import Encoder, TextOutputs
from fletcher.runtime.canary import check_vectors
from fletcher.runtime.space.bounds import BATCH_FP32, BATCH_LOGITS, BATCH_REDUCED
from fletcher.runtime.tasks.further_outputs import FURTHER

from ..reference.token_heads import FurtherAnswer
from .case import Case
from .report import FurtherResult

__all__ = ["compare_further"]

Rows = NDArray[np.float32]


def compare_further(
    encoder: Encoder, cases: Sequence[Case], expected: Sequence[FurtherAnswer], tolerance: Accuracy
) -> tuple[FurtherResult, ...]:
    """Compare sparse and token vectors of texts alone and in batches with the reference's.

    Args:
        encoder: the artifact.
        cases: the texts.
        expected: the reference's further outputs, in the same order.
        tolerance: accuracy that they must have.
    """
    alone = [_compute(encoder, [case])[0] for case in cases]
    order = sorted(range(len(cases)), key=lambda index: cases[index].input_type)
    together = list(alone)
    for _, group in groupby(order, key=lambda index: cases[index].input_type):
        indices = list(group)
        for index, found in zip(indices, _compute(encoder, [cases[i] for i in indices]), strict=True):
            together[index] = found
    exact = encoder.variant.precision == "fp32"
    texts = list(zip(alone, together, expected, strict=True))
    return (
        _compare("sparse", [_weights(text) for text in texts], tolerance, BATCH_LOGITS if exact else BATCH_REDUCED),
        _compare(
            "token_vectors",
            [_Text(*(answer.vectors for answer in text)) for text in texts],
            tolerance,
            BATCH_FP32 if exact else BATCH_REDUCED,
        ),
    )


def _compute(encoder: Encoder, cases: Sequence[Case]) -> list[FurtherAnswer]:
    """Return the artifact's further outputs of texts of one input type, in one call."""
    outputs = encoder.embed_outputs([case.text for case in cases], FURTHER, input_type=cases[0].input_type)
    return [_answer(outputs, text) for text in range(len(cases))]


def _answer(outputs: TextOutputs, text: int) -> FurtherAnswer:
    sparse, tokens = outputs.sparse, outputs.token_vectors
    assert sparse is not None and tokens is not None
    part = slice(*sparse.offsets[text : text + 2].tolist())
    weights: Mapping[int, float] = dict(zip(sparse.indices[part].tolist(), sparse.values[part].tolist(), strict=True))
    return FurtherAnswer(weights, tokens.vectors[slice(*tokens.offsets[text : text + 2].tolist())])


class _Text(NamedTuple):
    """One output of a text as rows that can be compared, (rows, width)."""

    alone: Rows
    together: Rows
    expected: Rows


def _weights(answers: Sequence[FurtherAnswer]) -> _Text:
    """Return the weights of a text as one row each, with a column for each token that one of them weights."""
    tokens = sorted({token for answer in answers for token in answer.weights})
    return _Text(*(np.array([[answer.weights.get(token, 0.0) for token in tokens]], np.float32) for answer in answers))


def _compare(kind: Output, texts: Sequence[_Text], tolerance: Accuracy, batch_tolerance: float) -> FurtherResult:
    """Compare one output of all texts.

    Args:
        kind: the output.
        texts: rows of each text.
        tolerance: accuracy that they must have.
        batch_tolerance: largest difference of an element between a text alone and in a batch.
    """
    cosines, differences, apart = [1.0], [0.0], [0.0]
    for text in texts:
        if not text.alone.shape == text.together.shape == text.expected.shape:
            cosines.append(-1.0)
            differences.append(float("inf"))
        elif text.expected.size:
            result = check_vectors(text.together, text.expected, min_cosine=0.0, max_abs=None)
            # The cosine with zeros says nothing: their difference does.
            cosines.append(result.min_cosine if text.expected.any() else 1.0)
            differences.append(result.max_abs)
            apart.append(float(np.abs(text.together - text.alone).max()))
    reasons = []
    # Written so that NaN would fail: "not at least", never "less than".
    if not min(cosines) >= tolerance.min_cosine:
        reasons.append(f"{kind}: cosine {min(cosines):.7f}, at least {tolerance.min_cosine} required")
    if tolerance.max_abs is not None and not max(differences) <= tolerance.max_abs:
        reasons.append(f"{kind}: max abs difference {max(differences):.2e}, at most {tolerance.max_abs:.0e} allowed")
    if not max(apart) <= batch_tolerance:
        reasons.append(f"{kind}: alone and in a batch {max(apart):.2e} apart, at most {batch_tolerance:.0e} allowed")
    return FurtherResult(
        output=kind,
        cosine_min=min(cosines),
        max_abs=max(differences),
        batch_max_abs=max(apart),
        reasons=tuple(reasons),
    )
