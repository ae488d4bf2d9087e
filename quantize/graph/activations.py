"""`Activations`: statistics of a product's activations, and the smoothing, outlier columns and ranges that follow from them.

`calibration` runs the graph that yields them, and `products` writes the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = [
    "GELU_FLOOR",
    "LOWER_BOUNDS",
    "Activations",
    "Steps",
    "even_steps",
    "loud_columns",
    "lower_bounds",
    "smoothing_factors",
    "uneven_steps",
]

Floats = NDArray[np.float32]

#: Just below Gelu's minimum, -0.16997 at -0.7518.
GELU_FLOOR = 0.17

#: Largest distance of activations below zero, by the operator that computes them.
LOWER_BOUNDS = {"Gelu": GELU_FLOOR, "Relu": 0.0}


@dataclass(frozen=True, slots=True)
class Activations:
    """`Activations`: statistics of a product's activations on the calibration texts.

    Attributes:
        factors: divisors of the columns before quantization (SmoothQuant), float32, (in,); None for no division.
        loud: outlier columns, which are multiplied in float32, ascending, int64; often empty.
        low: smallest element of the range, of the divided columns without the outliers.
        high: largest element of the range.
        mean: mean of each divided column, float32, (in,).
        coded: mean of each divided column after quantization with the static range, float32, (in,).
    """

    factors: Floats | None
    loud: NDArray[np.int64]
    low: float
    high: float
    mean: Floats
    coded: Floats

    @property
    def multipliers(self) -> Floats | None:
        """Factors that columns are multiplied by before quantization, (in,), 0 for outliers; None if every factor is 1."""
        if self.factors is None and not len(self.loud):
            return None
        multipliers = np.ones(len(self.mean), np.float32)
        if self.factors is not None:
            multipliers /= self.factors
        multipliers[self.loud] = 0
        return multipliers

    @property
    def raw_mean(self) -> Floats:
        """Mean of each column before the division, float32, (in,)."""
        return self.mean if self.factors is None else self.mean * self.factors

    def absorb(self, weight: Floats) -> Floats:
        """Return the weight, (in, out), for activations that were multiplied by `multipliers`."""
        absorbed = weight.copy() if self.factors is None else weight * self.factors[:, None]
        absorbed[self.loud] = 0
        return absorbed


@dataclass(frozen=True, slots=True)
class Steps:
    """`Steps`: a static range in 256 steps. A code represents `scale * (code - zero)`.

    Attributes:
        scale: size of a step.
        zero: code of the value 0.
        least: smallest code.
    """

    scale: float
    zero: int
    least: int

    def round(self, values: Floats) -> Floats:
        """Return the values that the codes of `values` represent."""
        codes = np.clip(np.rint(values / np.float32(self.scale)) + self.zero, self.least, self.least + 255)
        return np.asarray((codes - self.zero) * np.float32(self.scale), np.float32)


def uneven_steps(low: float, high: float) -> Steps:
    """Return the steps of unsigned bytes with a zero point, which use both ends of the range."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-20) / 255
    return Steps(scale, round(-low / scale), 0)


def even_steps(low: float, high: float) -> Steps:
    """Return the steps of signed bytes around 0, which the kernels of GPUs take."""
    return Steps(max(high, -low, 1e-20) / 127, 0, -128)


def smoothing_factors(largest: Floats, weights: Sequence[Floats], alpha: float) -> Floats:
    """Return the divisor of each column of the activations (SmoothQuant, arXiv:2211.10438, equation 4), (in,).

    Args:
        largest: largest absolute element of each column of the activations, (in,).
        weights: all weights that read the activations, (in, out) each.
        alpha: share of the spread that moves into the weights, 0 to 1.
    """
    columns = np.maximum(largest, np.float32(1e-5))
    rows = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), 1e-5)
    factors = (columns**alpha / rows ** (1 - alpha)).astype(np.float32)
    # Only ratios between columns matter; the lower bound limits the growth of a column of almost zeros.
    return np.asarray(np.maximum(factors / np.exp(np.log(factors).mean()), 1e-3), np.float32)


def loud_columns(largest: Floats, count: int) -> NDArray[np.int64]:
    """Return the `count` columns with the largest elements (all, if there are fewer), ascending."""
    return np.sort(np.argsort(-largest, kind="stable")[:count]).astype(np.int64)


def lower_bounds(nodes: Iterable[onnx.NodeProto]) -> dict[str, float]:
    """Return the largest distance below zero of each value whose operator has a lower bound, by the value's name."""
    return {
        output: LOWER_BOUNDS[node.op_type] for node in nodes if node.op_type in LOWER_BOUNDS for output in node.output
    }
