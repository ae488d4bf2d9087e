"""Comparison of a variant's token ids and vectors with the reference's, and of vectors alone with those in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import Accuracy, ModelCard
from fletcher.quantize.measure.metrics import compare, similarities
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.space.bounds import BATCH_FP32, BATCH_REDUCED

from ..reference.witness import Tokens
from .case import Case
from .outputs import TokenRow
from .report import TextResult, TokenizerResult, VariantResult, excerpt

__all__ = ["IdsResult", "VariantVectors", "compare_ids", "compare_vectors", "out_of_tolerance", "tolerance_of"]

#: Default accuracy by precision; precisions without an entry have the tolerance of their variant.
DEFAULT_ACCURACY: Mapping[str, Accuracy] = {"fp32": Accuracy(min_cosine=0.999999, max_abs=1e-5)}

#: Number of points in the plot of pairwise similarities.
PLOTTED_PAIRS = 1200


@dataclass(frozen=True, slots=True)
class IdsResult:
    """Comparison of the token ids of every text.

    Attributes:
        summary: summary for the report.
        differ: for each text, whether its token ids differ.
    """

    summary: TokenizerResult
    differ: tuple[bool, ...]


def compare_ids(rows: Sequence[TokenRow], expected: Sequence[Tokens], cases: Sequence[Case]) -> IdsResult:
    """Compare token ids and token types, text by text.

    Args:
        rows: the artifact's token ids.
        expected: the reference's.
        cases: texts, in the same order.
    """
    differences = [_difference(row, tokens) for row, tokens in zip(rows, expected, strict=True)]
    reason = next(
        (
            f"the tokenizer gives {difference} for the text {excerpt(case.text)!r} ({case.input_type})"
            for difference, case in zip(differences, cases, strict=True)
            if difference
        ),
        "",
    )
    summary = TokenizerResult(
        compared=len(rows),
        equal=differences.count(""),
        truncated=sum(row.dropped > 0 for row in rows),
        reason=reason,
    )
    return IdsResult(summary, tuple(bool(difference) for difference in differences))


def _difference(row: TokenRow, tokens: Tokens) -> str:
    """Return the first difference in words; empty if there is none."""
    if row.refused:
        return f"a refusal ({row.refused})"
    ours, theirs = row.ids, tokens.ids
    if ours != theirs:
        place = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            return f"{len(ours)} ids instead of {len(theirs)}"
        return f"id {ours[place]} instead of {theirs[place]} at place {place}"
    types = tokens.types
    if types is not None and row.types != types and any(types):
        place = next(i for i, pair in enumerate(zip(row.types, types, strict=True)) if pair[0] != pair[1])
        return f"token type {row.types[place]} instead of {types[place]} at place {place}"
    return ""


@dataclass(frozen=True, slots=True)
class VariantVectors:
    """Vectors that a variant computed for n texts.

    Attributes:
        variant: the variant.
        provider: execution provider that ran it.
        lengths: tokens of each text, (n,).
        alone: vectors of the texts run one by one, (n, dimension).
        batched: vectors of the texts run together, (n, dimension).
    """

    variant: Variant
    provider: str
    lengths: NDArray[np.int64]
    alone: NDArray[np.float32]
    batched: NDArray[np.float32]


def compare_vectors(
    vectors: VariantVectors,
    expected: NDArray[np.float32],
    cases: Sequence[Case],
    card: ModelCard,
    *,
    batch_tolerance: float | None = None,
) -> VariantResult:
    """Compare a variant's vectors with the reference's, and list what is out of tolerance.

    Args:
        vectors: the variant's vectors.
        expected: the reference's vectors, (n, dimension).
        cases: the texts.
        card: its accuracy for the variant's precision, if it has one, is the tolerance.
        batch_tolerance: largest difference of an element between a text alone and in a batch; None is the tolerance of unit
            vectors.
    """
    variant = vectors.variant
    tolerance = tolerance_of(card, variant)
    if batch_tolerance is None:
        batch_tolerance = BATCH_FP32 if variant.precision == "fp32" else BATCH_REDUCED
    agreement, in_batch = compare(vectors.batched, expected), compare(vectors.batched, vectors.alone)
    results = tuple(
        TextResult(
            text=excerpt(case.text), input_type=case.input_type, tokens=tokens, cosine=cosine, max_abs=difference
        )
        for case, tokens, cosine, difference in zip(
            cases, vectors.lengths.tolist(), agreement.cosines.tolist(), agreement.differences.tolist(), strict=True
        )
    )
    reasons = []
    # Written so that NaN would fail: "not at least", never "less than".
    if not agreement.cosine_min >= tolerance.min_cosine:
        reasons.append(f"cosine {agreement.cosine_min:.7f}, at least {tolerance.min_cosine} required")
    if tolerance.max_abs is not None and not agreement.max_abs <= tolerance.max_abs:
        largest = results[int(np.argmax(agreement.differences))]
        reasons.append(
            f"max abs difference {agreement.max_abs:.2e} (text {largest.text!r}), at most {tolerance.max_abs:.0e} allowed"
        )
    if not in_batch.max_abs <= batch_tolerance:
        changed = results[int(np.argmax(in_batch.differences))]
        reasons.append(
            f"alone and in a batch {in_batch.max_abs:.2e} apart (text {changed.text!r}), "
            f"at most {batch_tolerance:.0e} allowed"
        )
    ours, theirs = similarities(vectors.batched, PLOTTED_PAIRS), similarities(expected, PLOTTED_PAIRS)
    return VariantResult(
        name=variant.name,
        precision=variant.precision,
        provider=vectors.provider,
        tolerance=tolerance,
        batch_tolerance=batch_tolerance,
        cosine_mean=agreement.cosine_mean,
        cosine_p1=agreement.cosine_p1,
        cosine_min=agreement.cosine_min,
        max_abs=agreement.max_abs,
        batch_max_abs=in_batch.max_abs,
        neighbors=agreement.neighbors,
        spearman=agreement.spearman,
        worst=results[agreement.worst],
        reasons=tuple(reasons),
        texts=results,
        pairs=tuple(zip(ours.tolist(), theirs.tolist(), strict=True)),
    )


def tolerance_of(card: ModelCard, variant: Variant) -> Accuracy:
    """Return the accuracy that a variant must reach."""
    return card.accuracy.get(variant.precision) or DEFAULT_ACCURACY.get(variant.precision, variant.tolerance)


def out_of_tolerance(result: VariantResult) -> tuple[bool, ...]:
    """Return for each text whether its result is further from the reference than allowed."""
    tolerance = result.tolerance
    return tuple(
        not text.cosine >= tolerance.min_cosine
        or (tolerance.max_abs is not None and not text.max_abs <= tolerance.max_abs)
        for text in result.texts
    )
