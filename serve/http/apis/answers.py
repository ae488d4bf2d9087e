"""Parts that several APIs share: texts of a request, checks of their number, and headers with token counts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ...errors import EmptyError, TooManyError
from ..call import Call

__all__ = ["MAX_INPUTS", "TOKEN_HEADERS", "Headers", "Texts", "check_count", "token_headers"]

#: Largest number of texts in a request of TEI's routes or of a ranking. TEI's default is 32. With 512, the headers with token
#: counts are small enough for proxies.
MAX_INPUTS: Final = 512

#: A text, or a list of texts, in a body of an API that takes at most `MAX_INPUTS`.
Texts = Annotated[
    str | list[str],
    Meta(
        description="A text, or a list of texts.",
        extra_json_schema={
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_INPUTS},
            ]
        },
    ),
]

Headers = tuple[tuple[bytes, bytes], ...]

#: Texts whose counts fit into headers: more would exceed the 8 KiB that clients and proxies allow for one header.
MAX_COUNTED: Final = 1024

TOKEN_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "x-compute-tokens": "Tokens of all texts that the model saw",
        "x-tokens-seen": f"Tokens of each text that the model saw, for at most {MAX_COUNTED} texts",
        "x-tokens-dropped": f"Tokens of each text that truncation cut, for at most {MAX_COUNTED} texts",
    }
)


def token_headers(tokens: NDArray[np.int64], dropped: NDArray[Any]) -> Headers:
    """Return headers with the token counts, for answers whose bodies have no place for the counts.

    Args:
        tokens: number of tokens of each text that the model saw, int64, (n,).
        dropped: number of tokens that truncation cut from each text, int32, (n,).
    """
    total = (b"x-compute-tokens", b"%d" % int(tokens.sum()))
    if len(tokens) > MAX_COUNTED:
        return (total,)
    return (
        total,
        (b"x-tokens-seen", ",".join(map(str, tokens.tolist())).encode()),
        (b"x-tokens-dropped", ",".join(map(str, dropped.tolist())).encode()),
    )


def check_count(call: Call, count: int, field: str, most: int = MAX_INPUTS) -> None:
    """Check the number of items of a field.

    Raises:
        EmptyError: the list has no item.
        TooManyError: the list has too many items.
    """
    if not count:
        raise EmptyError(f"{field} is an empty list: give at least one text", field)
    most = call.limits.most_items(most)
    if count > most:
        raise TooManyError(f"{field} has {count} items; the limit is {most}: send several requests", field)
