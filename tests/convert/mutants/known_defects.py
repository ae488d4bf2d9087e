"""Causes of known defects. The test of each cause is an expected failure, and fails if the defect is fixed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .generation.edits import Mutant

__all__ = ["KNOWN_DEFECTS", "KnownDefect", "known_defect"]


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """`KnownDefect`: cause of defects.

    Attributes:
        name: short name, used as the parameter of the test.
        pattern: regular expression that the text of its mutants matches.
        example: text of a mutant with the defect.
        reason: description of the difference.
    """

    name: str
    pattern: str
    example: str
    reason: str


KNOWN_DEFECTS: tuple[KnownDefect, ...] = ()


def known_defect(mutant: Mutant) -> KnownDefect | None:
    """Return the known defect that a mutant has."""
    return next((cause for cause in KNOWN_DEFECTS if re.search(cause.pattern, str(mutant))), None)
