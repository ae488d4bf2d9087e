"""What is known of a product's activations, and what follows for it: bounds, smoothing, columns apart, a static range.

It runs no graph (`calibration` does) and writes no nodes (`products` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GELU_FLOOR",
    "LOWER_BOUNDS",
    "Activations",
    "Steps",
    "even_steps",
    "loud_columns",
    "smoothing_factors",
    "uneven_steps",
]

Floats = NDArray[np.float32]

#: Just below Gelu's minimum, -0.16997 at -0.7518.
GELU_FLOOR = 0.17

#: By the operator that makes them, how far below zero activations can be.
LOWER_BOUNDS = {"Gelu": GELU_FLOOR, "Relu": 0.0}


@dataclass(frozen=True, slots=True)
class Activations:
    """What a product's activations are on the calibration texts.

    Attributes:
        factors: what columns are divided by before they are quantized (SmoothQuant), float32, (in,); None divides none.
        loud: columns that are multiplied in float32, apart from the others, ascending, int64; mostly none.
        low: smallest element that shall be representable, of the divided columns that are not apart.
        high: largest one of them.
        mean: of each divided column, float32, (in,).
        coded: the same mean after quantizing with the static range, float32, (in,).
    """

    factors: Floats | None
    loud: NDArray[np.int64]
    low: float
    high: float
    mean: Floats
    coded: Floats

    @property
    def multipliers(self) -> Floats | None:
        """What activations are multiplied with before they are quantized, (in,): 0 for columns apart; None changes none."""
        if self.factors is None and not len(self.loud):
            return None
        multipliers = np.ones(len(self.mean), np.float32)
        if self.factors is not None:
            multipliers /= self.factors
        multipliers[self.loud] = 0
        return multipliers

    @property
    def raw_mean(self) -> Floats:
        """Of each column as it is, not divided, float32, (in,)."""
        return self.mean if self.factors is None else self.mean * self.factors

    def absorb(self, weight: Floats) -> Floats:
        """The weight, (in, out), of activations that were multiplied with `multipliers`."""
        absorbed = weight.copy() if self.factors is None else weight * self.factors[:, None]
        absorbed[self.loud] = 0
        return absorbed


@dataclass(frozen=True, slots=True)
class Steps:
    """A static range in 256 steps: a code stands for `scale * (code - zero)`.

    Attributes:
        scale: of a step.
        zero: the code of 0.
        least: the smallest code.
    """

    scale: float
    zero: int
    least: int

    def round(self, values: Floats) -> Floats:
        """What values become."""
        codes = np.clip(np.rint(values / np.float32(self.scale)) + self.zero, self.least, self.least + 255)
        return np.asarray((codes - self.zero) * np.float32(self.scale), np.float32)


def uneven_steps(low: float, high: float) -> Steps:
    """Of unsigned bytes, with a zero point, so that both ends are used."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-20) / 255
    return Steps(scale, round(-low / scale), 0)


def even_steps(low: float, high: float) -> Steps:
    """Of signed bytes around 0, which is what GPUs' kernels take."""
    return Steps(max(high, -low, 1e-20) / 127, 0, -128)


def smoothing_factors(largest: Floats, weights: Sequence[Floats], alpha: float) -> Floats:
    """How much of each column's spread moves into the weights (SmoothQuant, arXiv:2211.10438, equation 4), (in,).

    Args:
        largest: absolute element of each column of the activations, (in,).
        weights: all that read them, (in, out) each.
        alpha: 0 moves nothing, 1 all.
    """
    seen = np.maximum(largest, np.float32(1e-5))
    rows = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), 1e-5)
    factors = (seen**alpha / rows ** (1 - alpha)).astype(np.float32)
    # Only ratios between columns matter; a column of almost nothing is not to be blown up without end.
    return np.asarray(np.maximum(factors / np.exp(np.log(factors).mean()), 1e-3), np.float32)


def loud_columns(largest: Floats, count: int) -> NDArray[np.int64]:
    """The columns with the largest elements, ascending, (count,) or all."""
    return np.sort(np.argsort(-largest, kind="stable")[:count]).astype(np.int64)
