"""`to_yaml`: YAML of plain data. The base installation has no package for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

__all__ = ["Data", "to_yaml"]

#: Plain data: what JSON has.
Data = Mapping[str, "Data"] | Sequence["Data"] | str | int | float | bool | None

#: Text that YAML reads as text without quotes.
PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")

#: Words that YAML reads as something else.
WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def to_yaml(data: Data) -> str:
    """Return the YAML of data."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: Data) -> Iterator[str]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            if _is_block(value):
                yield f"{_scalar(key)}:"
                yield from (f"  {line}" for line in _lines(value))
            else:
                yield f"{_scalar(key)}: {_scalar(value)}"
    elif isinstance(data, Sequence) and not isinstance(data, str) and data:
        for value in data:
            first, *rest = _lines(value)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(data)


def _is_block(value: Data) -> bool:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str) and bool(value)


def _scalar(value: Data) -> str:
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    return json.dumps(value)  # a text of JSON is one of YAML
