"""`SweepOptions`: the options of a sweep."""

from __future__ import annotations

import msgspec

from fletcher.runtime.errors import InputError

from ..measure.speed import ROUNDS

__all__ = ["SweepOptions"]

#: Seconds of further rounds between recipes of overlapping speeds: about a hundred rounds of two variants.
TIE_SECONDS = 120.0


class SweepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`SweepOptions`: bounds, time budgets and recipes of a sweep.

    Attributes:
        min_cosine: smallest cosine with float32 that a recommended recipe may leave any text, 0 to 1.
        min_overlap: smallest share of float32's ten nearest neighbors that it may keep, 0 to 1.
        budget_seconds: a recipe that would probably end later is skipped; None means without limit.
        tie_seconds: longest time of further rounds between recipes whose speeds cannot be distinguished; 0 measures none. The
            recipes are quantized again before that.
        recipes: names or TOML files. Empty means every built-in recipe for processors (those for OpenVINO if it is
            installed) and recipes that exclude the matrices with the most damage.
        rounds: rounds of each recipe's timing.
    """

    min_cosine: float = 0.995
    min_overlap: float = 0.95
    budget_seconds: float | None = None
    tie_seconds: float = TIE_SECONDS
    recipes: tuple[str, ...] = ()
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        for name in ("min_cosine", "min_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name):g}, and must be between 0 and 1")
        if not self.tie_seconds >= 0:
            raise InputError(f"tie_seconds is {self.tie_seconds:g}, and must be at least 0")
