"""`Calibration`: function from a model's similarities to probabilities, fitted to pairs with a known answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "Measure", "Method"]

#: Value that is calibrated: the cosine of two vectors, or the logit of a reranker.
Measure = Literal["cosine", "logit"]

#: `isotonic` is a monotonic function through points, `logistic` is 1 / (1 + exp(-(slope · x + intercept))).
Method = Literal["isotonic", "logistic"]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Calibration`: function from similarities to probabilities that a pair belongs together.

    Attributes:
        measure: value that is calibrated.
        method: kind of function.
        input_type: input type of both texts of a pair; rerankers have `raw`.
        values: values of the function's points, ascending; empty for `logistic`.
        probabilities: probabilities of these points, which do not fall; empty for `logistic`.
        slope: slope of `logistic`, not negative.
        intercept: intercept of `logistic`.
        pairs: number of pairs that it was fitted to.
        positive: share of these pairs that belong together.
        error: expected calibration error on pairs that it was not fitted to, 0 to 1.
        variant: name of the graph that computed the values.
    """

    measure: Measure
    method: Method
    input_type: str
    values: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    slope: float = 0.0
    intercept: float = 0.0
    pairs: int
    positive: float
    error: float
    variant: str

    def __post_init__(self) -> None:
        numbers = (*self.values, *self.probabilities, self.slope, self.intercept)
        if not all(map(math.isfinite, numbers)) or self.slope < 0:
            raise ValueError("a calibration has numbers that are not finite, or a negative slope")
        if self.method == "isotonic":
            rising = all(one < other for one, other in pairwise(self.values))
            monotonic = all(one <= other for one, other in pairwise(self.probabilities))
            within = all(0 <= one <= 1 for one in self.probabilities)
            if not (self.values and len(self.values) == len(self.probabilities) and rising and monotonic and within):
                raise ValueError("the points of a calibration are not those of a rising function to probabilities")

    def apply(self, values: Sequence[float] | NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return probabilities, float64, (n,). Values beyond the points of `isotonic` have the probability of the last one.

        Args:
            values: values of the calibrated measure, (n,).
        """
        given = np.asarray(values, np.float64)
        if self.method == "isotonic":
            return np.interp(given, self.values, self.probabilities)
        probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -(self.slope * given + self.intercept)))
        return probabilities
