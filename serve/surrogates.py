"""Search for a lone surrogate in JSON that was refused, so that the error can name the string.

JavaScript's strings are UTF-16. A program that cuts them by length can leave half of an emoji, which `JSON.stringify` writes
as `\\ud83d` and which is not a character. Decoders describe it in their own words, or as data that are cut off.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

__all__ = ["find_lone_surrogate"]

#: Largest body in bytes that is searched: Python's own decoder, which accepts surrogates, takes 10 ms for one MiB.
MAX_BYTES: Final = 4 << 20

_escape = re.compile(rb"\\u[dD][89a-fA-F]")
_surrogate = re.compile("[\ud800-\udfff]")


def find_lone_surrogate(body: bytes) -> str | None:
    """Return the place of the first string that holds half of a surrogate pair, such as `input[3]`; None without one.

    Args:
        body: JSON, which may be malformed in other ways; then the answer is None.
    """
    if len(body) > MAX_BYTES or _escape.search(body) is None:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        place, item = left.pop()
        if isinstance(item, str):
            if _surrogate.search(item):
                return place or "the body"
        elif isinstance(item, list):
            left.extend((f"{place}[{index}]", part) for index, part in reversed([*enumerate(item)]))
        elif isinstance(item, dict):
            left.extend((f"{place}.{name}".lstrip("."), part) for name, part in reversed([*item.items()]))
    return None
