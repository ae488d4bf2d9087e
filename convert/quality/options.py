"""`QualityOptions`: the options of a quality report."""

from __future__ import annotations

import msgspec

from fletcher.runtime.errors import InputError

__all__ = ["QualityOptions"]


class QualityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`QualityOptions`: the options of a quality report.

    Attributes:
        variant: name of the graph. Default: the one that a load chooses.
        input_type: input type of the texts, which selects the model's prompt. Default: `document`, or the only one of the
            artifact.
        duplicate_cosine: smallest cosine of near-duplicates, -1 to 1.
        min_overlap: smallest share of the ten nearest neighbors that advised vectors keep, 0 to 1.
        with_map: whether the texts are placed in the plane, which a page shows.
    """

    variant: str | None = None
    input_type: str | None = None
    duplicate_cosine: float = 0.95
    min_overlap: float = 0.95
    with_map: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.duplicate_cosine <= 1:
            raise InputError(f"duplicate_cosine is {self.duplicate_cosine:g}, and must be between -1 and 1")
        if not 0 <= self.min_overlap <= 1:
            raise InputError(f"min_overlap is {self.min_overlap:g}, and must be between 0 and 1")
