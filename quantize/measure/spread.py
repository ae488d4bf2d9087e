"""`Spread`: a figure of several rounds, and the range in which its median lies."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

import msgspec
import numpy as np

__all__ = ["CONFIDENCE", "Spread"]

#: Smallest probability that the median of very many rounds is in the range of a spread. Five rounds are the fewest that have
#: it: 1 - 2 / 2**5 = 0.9375.
CONFIDENCE = 0.93


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Spread`: a figure that was measured in several rounds.

    Attributes:
        median: median of the rounds.
        low: lower end of the range in which the median of very many rounds lies with a probability of at least `CONFIDENCE`;
            of fewer than five rounds, the smallest round.
        high: upper end of that range.
        rounds: the figure in each round.
    """

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Iterable[float]) -> Spread:
        """Return the spread of at least one round."""
        values = tuple(float(value) for value in rounds)
        ordered = sorted(values)
        outer = _outside(len(ordered))
        return cls(
            median=float(np.median(ordered)),
            low=ordered[outer],
            high=ordered[-1 - outer],
            rounds=values,
        )

    def overlaps(self, other: Spread) -> bool:
        """Return whether both ranges have a value in common."""
        return self.low <= other.high and other.low <= self.high


def _outside(count: int) -> int:
    """Return the number of rounds that the range leaves out at each end.

    The range from the k-th smallest to the k-th largest of n rounds contains the median with the probability that n fair
    coins show at least k and at most n - k heads (interval of the sign test; Conover, Practical Nonparametric Statistics,
    section 3.2). No distribution of the rounds is assumed.
    """
    outside, tail = 0, 1  # tail: outcomes of `count` coins with at most `outside` heads
    while outside < (count - 1) // 2:
        tail += comb(count, outside + 1)
        if 1 - 2 * tail / 2**count < CONFIDENCE:
            break
        outside += 1
    return outside
