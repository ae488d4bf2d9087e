"""`Bounds`: how far the vectors of one space differ, as allowed and as measured."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from fletcher.model_zoo.card import Accuracy

from ..artifact.manifest import Variant

__all__ = ["BATCH_FP32", "BATCH_LOGITS", "BATCH_REDUCED", "UNBOUNDED", "Bounds", "Distance", "bounds_of"]

#: Largest difference of an element between a text alone and in a batch: float32's own rounding, in another order.
BATCH_FP32: Final = 1e-6

#: The same for reduced precisions, where a different order can change the direction of one rounding. A scale shared by the
#: batch, which this bound must detect, moves elements by 1e-2 (batch cosine 0.978 was measured for such INT8).
BATCH_REDUCED: Final = 2e-3

#: Outputs that are not normalized, and their bound: the last bit of a float32 logit of 10 is 1e-6 already.
UNBOUNDED: Final = ("scores", "sparse")
BATCH_LOGITS: Final = 1e-5


class Distance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Distance of two computations of the same vector.

    Attributes:
        min_cosine: smallest cosine that is allowed; None if only elements are compared.
        max_abs: largest difference of an element that is allowed; None if only the cosine is compared.
        measured_cosine: smallest cosine that was measured; None if none was.
        measured_abs: largest difference of an element that was measured; None if none was.
        measured_on: what was measured, in words; empty if nothing was.
    """

    min_cosine: float | None = None
    max_abs: float | None = None
    measured_cosine: float | None = None
    measured_abs: float | None = None
    measured_on: str = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a loaded model's vectors.

    Attributes:
        reference: distance from the authors' model in float32. It was measured when the artifact was verified.
        batch: distance of a text alone from the same text in a batch. Without a `max_abs` there is no bound: other texts of
            the batch change the vector.
        providers: distance of two providers, each of which passed the canary. It was measured when the artifact was verified,
            if that machine had several.
        session: distance of this session's canary from its reference, measured at the load.
    """

    reference: Distance
    batch: Distance
    providers: Distance
    session: Distance


def bounds_of(variant: Variant, tolerance: Accuracy, *, exact: bool, texts: int) -> Bounds:
    """Return the bounds of a loaded variant, without the figures of the load's canary.

    Args:
        variant: the variant.
        tolerance: distance from the reference that the load allows.
        exact: whether every text is computed in a batch of its own.
        texts: number of texts that the verification compared; 0 if the artifact was not verified.
    """
    measured = variant.measured
    on = f"{texts} texts of the verification" if texts and "cosine_min" in measured else ""
    cosine = measured.get("cosine_min")
    if not on and cosine is not None:
        on = f"{int(measured.get('texts', 0))} texts, against the float32 artifact"
    return Bounds(
        reference=Distance(
            min_cosine=tolerance.min_cosine,
            max_abs=tolerance.max_abs,
            measured_cosine=cosine,
            measured_abs=measured.get("max_abs"),
            measured_on=on,
        ),
        batch=_batch(variant, exact=exact, on=on),
        providers=Distance(
            min_cosine=_twice(tolerance.min_cosine),
            max_abs=None if tolerance.max_abs is None else 2 * tolerance.max_abs,
            measured_abs=measured.get("providers_max_abs"),
            measured_on="the canary, on the providers of the machine that verified"
            if "providers_max_abs" in measured
            else "",
        ),
        session=Distance(),
    )


def batch_bound(variant: Variant) -> float | None:
    """Return the allowed difference of an element between a text alone and in a batch; None if there is no bound."""
    if variant.batch_dependent:
        return None
    if variant.precision != "fp32":
        return BATCH_REDUCED
    return BATCH_LOGITS if variant.outputs[0].name in UNBOUNDED else BATCH_FP32


def _batch(variant: Variant, *, exact: bool, on: str) -> Distance:
    if exact:
        return Distance(max_abs=0.0, measured_on="every text is computed alone")
    measured = variant.measured.get("batch_max_abs")
    where = "" if measured is None else on or "the canary, when the artifact was exported"
    return Distance(max_abs=batch_bound(variant), measured_abs=measured, measured_on=where)


def _twice(cosine: float) -> float:
    """Return the smallest cosine of two vectors that each have at least this cosine with a third one."""
    return math.cos(min(2 * math.acos(min(max(cosine, -1.0), 1.0)), math.pi))
