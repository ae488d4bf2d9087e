"""Sizes in bytes, written as numbers or as text such as `512MiB`."""

from __future__ import annotations

import re

from ..errors import InputError

__all__ = ["parse_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_size(size: int | str) -> int:
    """Return the number of bytes of a size such as `2GB`, `512 MiB`, `1.5g`, `"800000000"` or 800000000.

    Raises:
        InputError: the text is not a size above zero.
    """
    match = _SIZE.fullmatch(str(size).strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"{size!r} is not a size: write bytes, or a number with KB, MB, GB, KiB, MiB or GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))
