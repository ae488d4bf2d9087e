"""Levels of access that routes and calls require of their callers."""

from __future__ import annotations

from typing import Literal

__all__ = ["Access"]

#: `open` does not need a key. If the server has keys, `call` needs any, `key` one with the role `user` or `admin`, `metrics`
#: one with the role `monitor` or `admin`, and `admin` one with the role `admin`; if it has none, an admin
#: must be on the loopback.
Access = Literal["open", "call", "key", "metrics", "admin"]
