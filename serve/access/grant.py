"""`Grant`: rights of a caller that the gate let in."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        ledger_name: name of the client in the ledger; empty without keys.
        limited: True if requests need a permit.
    """

    name: str
    key: Key | None = None
    plan: Plan | None = None
    ledger_name: str = field(init=False)
    limited: bool = field(init=False)

    def __post_init__(self) -> None:
        key = self.key
        bound = key is not None and (key.models is not None or key.datasets is not None)
        object.__setattr__(self, "ledger_name", f"key {self.name}" if self.name else "")
        object.__setattr__(self, "limited", self.plan is not None or bound)


#: Rights of callers of a server without keys and limits.
NOBODY = Grant("")
