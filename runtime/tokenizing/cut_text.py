"""Ends of very long texts: the tokens that truncation leaves, without tokenizing the rest.

A text is cut where no token can span the cut (`long_text.ends_of`), so a part has the tokens that the whole text has there.
Parts are added until they have more tokens than truncation leaves. How many tokens the rest has is not known then: the number
of dropped tokens counts those that were seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LONG", "Part", "beginning", "ending"]

#: Longest text in characters that is always tokenized completely, so that its number of dropped tokens is exact.
LONG: Final = 1 << 14

#: Characters of a part for each token that is needed, and fewest characters of a part. English has 4.5 a token.
CHARACTERS: Final = 5
FEWEST: Final = 512

Encode = Callable[[str], NDArray[np.int32]]

#: Token ids of a part of a text, int32, and its first character and the one behind it.
Part = tuple[NDArray[np.int32], int, int]


def beginning(text: str, most: int, ends: re.Pattern[str], encode: Encode) -> Part:
    """Return the beginning of a text with more than `most` tokens, or the whole text.

    Args:
        text: the text.
        most: tokens that truncation leaves.
        ends: pattern for the ends of parts.
        encode: returns the token ids of a part, without special tokens.
    """
    parts: list[NDArray[np.int32]] = []
    stop = count = 0
    while stop < len(text) and count <= most:
        end = ends.search(text, stop + max(CHARACTERS * (most + 1 - count), FEWEST) - 1)
        start, stop = stop, len(text) if end is None else end.end()
        parts.append(encode(text[start:stop]))
        count += len(parts[-1])
    return np.concatenate([np.zeros(0, np.int32), *parts]), 0, stop


def ending(text: str, most: int, ends: re.Pattern[str], encode: Encode) -> Part:
    """Return the end of a text with more than `most` tokens, or the whole text; the arguments are those of `beginning`."""
    parts: list[NDArray[np.int32]] = []
    start, count = len(text), 0
    while start > 0 and count <= most:
        size, stop, cut = max(CHARACTERS * (most + 1 - count), FEWEST), start, 0
        while size < stop:
            end = ends.search(text, stop - size, stop)
            if end is not None and end.end() < stop:
                cut = end.end()
                break
            size *= 2
        start = cut
        parts.insert(0, encode(text[start:stop]))
        count += len(parts[0])
    return np.concatenate([np.zeros(0, np.int32), *parts]), start, len(text)
