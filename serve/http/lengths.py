"""Lengths of texts in answers: headers with the tokens that the model saw, and texts that truncation has cut."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOKEN_HEADERS", "TRUNCATED", "token_headers"]

Headers = tuple[tuple[bytes, bytes], ...]

#: Texts whose counts fit into headers: more would exceed the 8 KiB that clients and proxies allow for one header.
MAX_COUNTED: Final = 1024

#: Header with the number of texts that truncation has cut; it is absent if none was cut.
TRUNCATED: Final = b"x-truncated"

TOKEN_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "x-compute-tokens": "Tokens of all texts that the model saw",
        "x-tokens-seen": f"Tokens of each text that the model saw, for at most {MAX_COUNTED} texts",
        "x-tokens-dropped": f"Tokens of each text that truncation cut, for at most {MAX_COUNTED} texts",
    }
)


def token_headers(tokens: NDArray[np.int64], dropped: NDArray[np.int32]) -> Headers:
    """Return headers with the token counts, for answers whose bodies have no place for them.

    Args:
        tokens: tokens of each text that the model saw, int64, (n,).
        dropped: tokens of each text that truncation cut, int32, (n,).
    """
    total = (b"x-compute-tokens", b"%d" % int(tokens.sum()))
    if len(tokens) > MAX_COUNTED:
        return (total,)
    return (
        total,
        (b"x-tokens-seen", ",".join(map(str, tokens.tolist())).encode()),
        (b"x-tokens-dropped", ",".join(map(str, dropped.tolist())).encode()),
    )
