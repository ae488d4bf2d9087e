"""`Grant`: rights of a caller that the gate let in."""

from __future__ import annotations

from dataclasses import dataclass

from .key import Key
from .limits.plan import Plan

__all__ = ["NOBODY", "Grant"]


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights of a caller. They are made once for each key.

    Attributes:
        name: name of the key; empty without keys.
        key: the key, or None without keys.
        plan: limits of the client, or None.
    """

    name: str
    key: Key | None = None
    plan: Plan | None = None

    @property
    def limited(self) -> bool:
        """True if requests need a permit."""
        key = self.key
        return self.plan is not None or (key is not None and (key.models is not None or key.datasets is not None))


#: Rights of callers of a server without keys and limits.
NOBODY = Grant("")
