"""`FullRule`: rule while the audit log cannot be written."""

from __future__ import annotations

from typing import Literal

__all__ = ["FullRule"]

#: `stop` refuses requests, `drop` answers them and drops what the queue cannot hold.
FullRule = Literal["stop", "drop"]
