"""Levels of access: what a route or a call asks of its caller."""

from __future__ import annotations

from typing import Literal

__all__ = ["Access"]

#: `open` needs no key. `key` needs any key, if the server has keys. `admin` needs an admin's key, or the loopback if the
#: server has no keys.
Access = Literal["open", "key", "admin"]
