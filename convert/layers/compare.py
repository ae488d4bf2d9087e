"""Difference of a point's values from their reference, and its tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import InputError

__all__ = ["Difference", "compare_values", "tolerance_of"]

#: Unit roundoff by precision: half the distance from 1 to the next number.
ROUNDOFF: Mapping[str, float] = MappingProxyType({"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8})

#: Half types sum their products in float32, so that their roundings add up more slowly than float32's: all-MiniLM-L6-v2 in
#: fp16 errs by 8 units of its roundoff in layer 5, a random ModernBERT by 23 in layer 2.
SHARE: Mapping[str, float] = MappingProxyType({"fp32": 1.0, "fp16": 0.25, "bf16": 0.25})

#: Largest error by rounding alone, in units of roundoff, before the first layer and for each further layer. Measured against
#: transformers in float32, largest error of a row over texts of 1 to 256 tokens: all-MiniLM-L6-v2 3 after the embeddings, 26
#: in layer 0, 46 in layer 5; all-mpnet-base-v2, which has a few huge elements, 104 in layer 4 and 123 in layer 11; ten
#: families with random weights and twelve layers at most 67. For float32 this allows 5e-6 in the first layer and 2e-5 in the
#: twelfth. For comparison: GELU with tanh instead of erf moves a row by 1e-4.
FIRST_LAYER = 80.0
EACH_LAYER = 20.0

#: Factors of points with larger errors. A score is a sum whose terms cancel (237 in all-mpnet-base-v2's layer 9). Softmax
#: turns absolute differences of scores into relative ones of weights: MiniLM's layer 0 has scores of 50, and 141 units in its
#: softmax. The context averages that out again (53). A down projection's terms cancel as well: in all-mpnet-base-v2 their
#: absolute values sum to 27 to 49 times the result, and on a processor with AVX-512 its layer 4 errs by 177 units. The
#: errors of both factors of a gated unit add up (LFM2 in fp16: 17 and 18 units, 31 of the product). A norm
#: after such a product gives short rows the length of the others, and enlarges their errors (282 in EmbeddingGemma 2).
STEEP: Mapping[str, float] = MappingProxyType(
    {
        "attention/raw_scores": 3.0,
        "attention/scaled_scores": 3.0,
        "attention/biased_scores": 3.0,
        "attention/softmax": 6.0,
        "attention/context": 3.0,
        "attention/output": 3.0,
        "attention/norm_after": 3.0,
        "feed_forward/gated": 1.5,
        "feed_forward/down": 1.5,
        "feed_forward/norm_after": 1.5,
        "embedding_gate/norm_after": 3.0,
    }
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of one text's values from their reference.

    Attributes:
        max_abs: largest absolute difference of an element.
        relative: see `PointResult.relative`.
        cosine: of all values together.
    """

    max_abs: float
    relative: float
    cosine: float


def tolerance_of(precision: str, key: str, depth: int) -> float:
    """Return the tolerance of a point's relative error.

    Args:
        precision: precision of the graph's arithmetic.
        key: key of the point.
        depth: number of layers before the point.

    Raises:
        InputError: Fletcher does not compare this precision layer by layer.
    """
    if precision not in ROUNDOFF:
        raise InputError(
            f"the precision {precision} is not compared layer by layer, only {', '.join(ROUNDOFF)} are. "
            "Verify without --layers"
        )
    units = SHARE[precision] * (FIRST_LAYER + EACH_LAYER * depth) * STEEP.get(key.partition("/")[2], 1.0)
    return ROUNDOFF[precision] * units


def compare_values(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Difference:
    """Compare values of one text.

    Args:
        ours: values of the graph, of any shape; the last axis is a row.
        theirs: values of the reference, of the same shape, or with a shorter last axis, which is padded with zeros.

    Returns:
        The difference; infinite for different shapes, and for NaN or infinity on either side.
    """
    if ours.ndim == theirs.ndim and ours.ndim and ours.shape[-1] > theirs.shape[-1]:
        theirs = np.pad(theirs, [(0, 0)] * (ours.ndim - 1) + [(0, ours.shape[-1] - theirs.shape[-1])])
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Difference(np.inf, np.inf, -1.0)
    left, right = (
        array.astype(np.float64).reshape(-1, array.shape[-1] if array.ndim else 1) for array in (ours, theirs)
    )
    apart = left - right
    lengths = np.sqrt(np.sum(right**2, axis=1))
    scale = np.maximum(lengths, np.sqrt(np.mean(lengths**2)))
    errors = np.sqrt(np.sum(apart**2, axis=1))
    if right.size == 1:  # a score: its terms may cancel, and an error of a value below 1 counts as it is
        scale = np.maximum(scale, 1.0)
    # Against a reference that is zero everywhere, an error counts as it is.
    relative = float((errors / np.where(scale == 0, 1.0, scale)).max(initial=0.0))
    product = float(np.sqrt(np.sum(left**2) * np.sum(right**2)))
    if product == 0:
        cosine = 1.0 if not left.any() and not right.any() else 0.0
    else:
        cosine = min(1.0, float(np.sum(left * right)) / product)
    return Difference(float(np.abs(apart).max(initial=0.0)), relative, cosine)
