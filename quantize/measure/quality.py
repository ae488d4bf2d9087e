"""`Quality`: accuracy of one variant's vectors against the float32 reference, and their dependence on the batch."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.encodings import Encodings
from fletcher.runtime.loading import open_tokenizer

from .metrics import compare, cosines
from .pairs import agreement
from .runnable_variant import RunnableVariant
from .texts import SplitTexts

__all__ = ["Quality", "batch_dependence", "measure_quality"]

#: Number of texts that run alone and in a batch, and the size of the batches.
ALONE, BATCH = 32, 32

#: Most tokens of such a text: a dependence on the batch appears at any length.
ALONE_TOKENS = 128


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Quality`: accuracy of vectors against their reference.

    Attributes:
        cosine_mean: mean over the texts of the cosine of a text's vector with its reference.
        cosine_p1: first percentile of the cosines.
        cosine_min: smallest cosine.
        overlap: share of each text's ten nearest other texts that are also among the reference's ten, mean over the texts.
        spearman: rank correlation of all pairwise similarities with the reference's.
        pairs: rank correlation of the similarities of labeled pairs with their scores; None without pairs.
        batch_max_abs: largest difference of an element between a text alone and the same text in a batch.
        batch_cosine: smallest cosine between the two.
        cosines: cosine of each text.
    """

    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    overlap: float
    spearman: float
    pairs: float | None
    batch_max_abs: float
    batch_cosine: float
    cosines: tuple[float, ...]


def measure_quality(runnable: RunnableVariant, texts: SplitTexts, reference: NDArray[np.float32]) -> Quality:
    """Compare a variant's vectors with the reference.

    Args:
        runnable: the variant.
        texts: the measured texts and the pairs are computed.
        reference: vectors of the measured texts, float32, (n, dimension).

    Raises:
        FletcherError: the variant cannot be opened, or computes NaN or infinity.
    """
    pairs = texts.pairs
    with runnable.open() as trial:
        comparison = compare(trial.compute(texts.measured_ids), reference)
        correlation = None
        if pairs is not None:
            tokenizer = open_tokenizer(runnable.artifact)
            first, second = (trial.compute(tokenizer.encode(list(side))) for side in (pairs.first, pairs.second))
            correlation = agreement(pairs, first, second)
        batch_max_abs, batch_cosine = batch_dependence(trial.run, texts.measured_ids)
    return Quality(
        cosine_mean=comparison.cosine_mean,
        cosine_p1=comparison.cosine_p1,
        cosine_min=comparison.cosine_min,
        overlap=comparison.neighbors,
        spearman=comparison.spearman,
        pairs=correlation,
        batch_max_abs=batch_max_abs,
        batch_cosine=batch_cosine,
        cosines=tuple(comparison.cosines.tolist()),
    )


def batch_dependence(run: Callable[[Encodings], NDArray[np.float32]], texts: Encodings) -> tuple[float, float]:
    """Measure the dependence of vectors on the batch: compute some texts alone, and together with others.

    Args:
        run: computes one batch.
        texts: texts of mixed lengths; those of at most `ALONE_TOKENS` tokens are used, or the shortest ones.

    Returns:
        The largest absolute difference of an element, and the smallest cosine.
    """
    order = np.argsort(texts.lengths, kind="stable")
    few = order[: max(int((texts.lengths <= ALONE_TOKENS).sum()), min(BATCH, len(order)))]
    rows = few[np.random.default_rng(0).permutation(len(few))[:ALONE]]
    alone = np.concatenate([run(texts.select(rows[index : index + 1])) for index in range(len(rows))])
    together = np.concatenate([run(texts.select(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)])
    angles = cosines(alone.astype(np.float64), together.astype(np.float64))
    return float(np.abs(alone - together).max()), float(angles.min())
