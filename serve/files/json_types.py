"""Values of JSON objects as typed Arrow columns, without losing any: what does not fit one type becomes JSON text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

__all__ = ["JsonKinds"]

_TYPES: Final = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
}

#: What two kinds become together; "int" is one that a double holds exactly, "long" any other of 64 bits.
_JOINED: Final = {frozenset(("int", "float")): "float", frozenset(("int", "long")): "long"}


class JsonKinds:
    """The types of the keys that were seen, and rows turned into columns of these types.

    Integers and floats together are floats, where a float holds them exactly; a key with any other mixture, with lists or
    objects, or with integers beyond 64 bits is carried as JSON text. A missing key and null are both null.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str | None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The keys in the order in which they came."""
        return tuple(self._kinds)

    def see(self, row: Mapping[str, Any]) -> None:
        """Learns from a row; all rows must be seen before the first `batch`."""
        for key, value in row.items():
            known = self._kinds.get(key)
            kind = _kind(value)
            if known is None or kind is None:
                self._kinds[key] = known or kind
            elif known != kind:
                self._kinds[key] = _JOINED.get(frozenset((known, kind)), "json")

    def schema(self) -> pa.Schema:
        """One nullable column a key; a key that was always null is a string."""
        return pa.schema([(key, _TYPES[kind or "string"]) for key, kind in self._kinds.items()])

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """The rows as columns of `schema`."""
        columns = []
        for key, kind in self._kinds.items():
            values = [row.get(key) for row in rows]
            if kind == "json":
                values = [None if value is None else msgspec.json.encode(value).decode() for value in values]
            columns.append(pa.array(values, _TYPES[kind or "string"]))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema())


def _kind(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= 2**53 else "long" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "float"
    return "string" if isinstance(value, str) else "json"
