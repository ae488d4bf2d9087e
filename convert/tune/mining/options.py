"""`MiningOptions`: the options of mining."""

from __future__ import annotations

import msgspec

from fletcher.runtime.errors import InputError

__all__ = ["MiningOptions"]


class MiningOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`MiningOptions`: the options of mining. Names and meanings are those of sentence-transformers' `mine_hard_negatives`.

    `relative_margin` alone has another default: on documentation, negatives that are as near as the positive are so often
    false that a training gained nothing from them (`docs/howto/mining.md`).

    Attributes:
        num_negatives: negatives of each query.
        range_min: number of the nearest candidates to skip, after positives and false negatives were removed.
        range_max: last rank that a negative may have among the texts that do not belong to the query. Default: 10 for each
            negative, behind `range_min`.
        absolute_margin: a candidate closer than the least similar positive minus this margin is a false negative.
        relative_margin: a candidate with more than (1 - margin) of the least similar positive's score is a false negative;
            None for no such bound.
        max_score: largest score of a negative.
        min_score: smallest score of a negative.
        sampling: `top` takes the nearest candidates in the window, `random` some of them.
        seed: seed of `random`.
        reranker: artifact or SOURCE of a reranker, whose scores replace the cosines for margins and bounds.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = 0.1
    max_score: float | None = None
    min_score: float | None = None
    sampling: str = "top"
    seed: int = 0
    reranker: str | None = None

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise InputError(f"num_negatives is {self.num_negatives}, and must be at least 1")
        if self.range_min < 0:
            raise InputError(f"range_min is {self.range_min}, and must be at least 0")
        if self.window < self.range_min + self.num_negatives:
            raise InputError(
                f"the ranks {self.range_min} to {self.window} have no room for {self.num_negatives} negatives: "
                "raise range_max"
            )
        if self.sampling not in ("top", "random"):
            raise InputError(f"sampling is {self.sampling!r}: choose top or random")

    @property
    def window(self) -> int:
        """Return the last rank that a negative may have, counted from 1."""
        return self.range_min + 10 * self.num_negatives if self.range_max is None else self.range_max

    @property
    def filters(self) -> bool:
        """Return whether candidates are filtered by their scores."""
        return any(
            one is not None for one in (self.absolute_margin, self.relative_margin, self.max_score, self.min_score)
        )
