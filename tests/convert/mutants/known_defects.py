"""Causes of defects that are known and not mended yet. A test of each is expected to fail, and fails when it is mended."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .generation.edits import Mutant

__all__ = ["KNOWN_DEFECTS", "KnownDefect", "known_defect"]


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """Cause of defects.

    Attributes:
        name: short name, the test's parameter.
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
    """Return the known cause that a mutant belongs to."""
    return next((cause for cause in KNOWN_DEFECTS if re.search(cause.pattern, str(mutant))), None)
