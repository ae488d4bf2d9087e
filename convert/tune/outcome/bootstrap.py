"""`compare_samples`: figures of two models on the same items, with bootstrap intervals. It knows no model.

The percentile interval of resampled items (Efron, 1979). Both models have the same resampled items, so the interval of their
difference is that of paired items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.measure.metrics import spearman

__all__ = ["Gain", "Interval", "Sample", "compare_samples"]

#: Draws of a bootstrap.
DRAWS = 2000

#: Share of the draws inside an interval.
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Sample:
    """`Sample`: value of each item by one model.

    Attributes:
        values: float64, (n,).
        scores: scores to correlate the values with, float64, (n,); None if the figure is the mean of the values.
    """

    values: NDArray[np.float64]
    scores: NDArray[np.float64] | None = None

    def figure(self) -> float:
        """Return the mean of the values, or their rank correlation with the scores."""
        return float(self.figures(np.arange(len(self.values))[None])[0])

    def figures(self, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the figure of each draw of items.

        Args:
            draws: rows of items, (draws, items).
        """
        if self.scores is None:
            return np.asarray(self.values[draws].mean(axis=1))
        return np.array([spearman(self.values[rows], self.scores[rows]) for rows in draws])


class Interval(msgspec.Struct, frozen=True):
    """`Interval`: a figure and its interval of 95 %.

    Attributes:
        value: the figure of all items.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """`Gain`: a figure before and after a training, on items that were not trained on.

    Attributes:
        name: name of the figure; larger is better.
        graph: `float32`, or the name of a quantization recipe.
        items: number of items.
        before: figure of the model before the training.
        after: figure of the tuned model.
        gain: difference.
        reference: figure of the teacher on the same items; None without a teacher.
    """

    name: str
    graph: str
    items: int
    before: Interval
    after: Interval
    gain: Interval
    reference: float | None = None

    @property
    def verdict(self) -> Literal["better", "worse", "no difference beyond noise"]:
        """Return whether the interval of the difference excludes zero."""
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else "no difference beyond noise"


def compare_samples(
    name: str, graph: str, before: Sample, after: Sample, *, reference: float | None = None, seed: int = 0
) -> Gain:
    """Return a figure of two models with intervals.

    Args:
        name: name of the figure.
        graph: kind of the graphs that computed the values.
        before: values before the training.
        after: values of the same items after it.
        reference: figure of the teacher.
        seed: seed of the draws.
    """
    count = len(before.values)
    rows = np.random.default_rng(seed).integers(0, count, (DRAWS, count))
    drawn = before.figures(rows), after.figures(rows)
    values = before.figure(), after.figure()
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    before_ends, after_ends, gain_ends = (np.quantile(part, ends).tolist() for part in (*drawn, drawn[1] - drawn[0]))
    return Gain(
        name=name,
        graph=graph,
        items=count,
        before=Interval(values[0], *before_ends),
        after=Interval(values[1], *after_ends),
        gain=Interval(values[1] - values[0], *gain_ends),
        reference=reference,
    )
