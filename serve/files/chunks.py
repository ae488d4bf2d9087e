"""`TextSource` and `TextChunk`: a file of texts, and consecutive texts of it with the other columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from fletcher.runtime.errors import InputError

__all__ = ["CHUNK_CHARACTERS", "CHUNK_TEXTS", "TextChunk", "TextSource", "refuse_reserved"]

#: Number of texts in a chunk: enough to sort by length into even batches, few enough to show progress every few seconds.
CHUNK_TEXTS: Final = 1024

#: A chunk ends early when its texts reach this many characters, so that long documents cannot fill the memory.
CHUNK_CHARACTERS: Final = 32 * 2**20

#: Columns of the output. No other column of the input may have one of these names.
_RESERVED: Final = ("text", "vector")


@dataclass(frozen=True, slots=True)
class TextChunk:
    """Consecutive texts of a file.

    Attributes:
        first_row: row number of the first text, from 0.
        texts: the texts, in the file's order.
        carried: the other columns; if there are any, they have one row for each text.
    """

    first_row: int
    texts: list[str]
    carried: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class TextSource:
    """An open file of texts.

    Attributes:
        name: name of the file, for messages.
        total: number of texts in the file, or None if it is not known before reading.
        schema: schema of the carried columns.
        chunks: the texts; they can be read only once.
    """

    name: str
    total: int | None
    schema: pa.Schema
    chunks: Iterator[TextChunk]


def refuse_reserved(name: str, others: Iterable[str], column: str) -> None:
    """Reject input whose other columns have names that the output needs.

    Raises:
        InputError: a name is "text" or "vector".
    """
    for other in others:
        if other in _RESERVED:
            raise InputError(
                f"{name} has the texts in {column!r}, and it also has {other!r}, a name that the output needs; "
                f"rename or remove {other!r}"
            )
