"""Levels of access that routes and calls require of their callers."""

from __future__ import annotations

from typing import Literal

__all__ = ["Access"]

#: `open` does not need a key. `key` needs any key if the server has keys. `admin` needs a key with the admin role; if the
#: server has no keys, the caller must be on the loopback.
Access = Literal["open", "key", "admin"]
