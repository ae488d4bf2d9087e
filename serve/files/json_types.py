"""`JsonKinds`: values of JSON objects as typed Arrow columns. Values that do not fit one type become JSON text."""

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

#: The kind that holds the values of two kinds. "int" is an integer that float64 holds exactly, "long" any other of 64 bits.
_JOINED: Final = {frozenset(("int", "float")): "float", frozenset(("int", "long")): "long"}


class JsonKinds:
    """Types of the keys of JSON objects, and the conversion of rows to columns of these types.

    Integers and floats of one key become floats, if a float holds the integers exactly. A key with any other mixture, with
    lists or objects, or with integers of more than 64 bits becomes JSON text. A missing key becomes null.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str | None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Keys, in the order of their first row."""
        return tuple(self._kinds)

    def see(self, row: Mapping[str, Any]) -> None:
        """Add the types of a row. Call this for all rows before the first call of `batch`."""
        for key, value in row.items():
            before = self._kinds.get(key)
            kind = _kind(value)
            if before is None or kind is None:
                self._kinds[key] = before or kind
            elif before != kind:
                self._kinds[key] = _JOINED.get(frozenset((before, kind)), "json")

    def schema(self) -> pa.Schema:
        """Return a schema with a nullable column for each key. The column of a key that is null in all rows holds strings."""
        return pa.schema([(key, _TYPES[kind or "string"]) for key, kind in self._kinds.items()])

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        """Return rows as a batch with the columns of `schema`."""
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
