"""Outputs of a graph: the rows of values that a text has in each, and several outputs of one run as one array.

Everything between a session and an answer carries one array of values per batch, and needs to know which rows of it belong to
a text. Most outputs have one row per text, others one per token (`TOKEN_OUTPUTS`). Several outputs of one run are one column:
each text has the elements of its rows of the first output, then those of the second one, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..encodings import ragged_index
from .manifest import TOKEN_OUTPUTS

__all__ = ["BY_TOKEN", "ValueRows", "is_joined", "join_names", "join_values", "names_of", "split_values", "value_rows"]

#: Sign between the names of several outputs of one run.
AND: Final = "+"


#: Number of rows. The bound is for messages between processes.
Rows = Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]


class ValueRows(msgspec.Struct, frozen=True, array_like=True):
    """Number of rows that a text has in an array of values.

    Attributes:
        per_text: rows for the text.
        per_token: rows for each of its tokens.
    """

    per_text: Rows
    per_token: Rows

    def count(self, batch: Batch) -> int:
        """Return the number of rows of a batch."""
        return self.per_text * len(batch) + self.per_token * batch.num_tokens

    def places(self, batch: Batch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the rows that belong to the selected texts, text by text.

        Args:
            batch: texts of all values.
            rows: indices of texts, int64, (m,).
        """
        return ragged_index(self._starts(batch), rows)

    def texts(self, batch: Batch, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the texts to which rows of the values belong, ascending, each once.

        Args:
            batch: texts of all values.
            places: indices of rows, int64, (m,).
        """
        texts: NDArray[np.int64] = np.unique(np.searchsorted(self._starts(batch), places, side="right") - 1)
        return texts

    def _starts(self, batch: Batch) -> NDArray[np.int64]:
        starts: NDArray[np.int64] = self.per_token * batch.offsets
        if self.per_text:
            starts = starts + self.per_text * np.arange(len(batch) + 1)
        return starts


#: Rows of an output with one row per token.
BY_TOKEN: Final = ValueRows(0, 1)


def join_names(names: Sequence[str]) -> str:
    """Return the name of several outputs of one run: `vectors+token_weights`."""
    return AND.join(names)


def is_joined(output: str) -> bool:
    """Return whether a name is that of several outputs."""
    return AND in output


def names_of(output: str) -> list[str]:
    """Return the names that `join_names` joined; one name is a list of itself."""
    return output.split(AND)


def value_rows(output: str, widths: Mapping[str, int]) -> ValueRows | None:
    """Return the rows of an output, or of several outputs of one run; None is one row per text.

    Args:
        output: name of the output, or joined names.
        widths: elements of a row, by the name of a single output.
    """
    if not is_joined(output):
        return BY_TOKEN if output in TOKEN_OUTPUTS else None
    names = names_of(output)
    return ValueRows(
        sum(widths[name] for name in names if name not in TOKEN_OUTPUTS),
        sum(widths[name] for name in names if name in TOKEN_OUTPUTS),
    )


def join_values(names: Sequence[str], values: Sequence[NDArray[Any]], batch: Batch) -> NDArray[np.float32]:
    """Return the values of several outputs as one column.

    Args:
        names: names of the outputs.
        values: values of each: (texts, width), or (tokens, width) for `TOKEN_OUTPUTS`.
        batch: texts of the values.

    Returns:
        float32, (elements of all values, 1).
    """
    column = np.empty((sum(part.size for part in values), 1), np.float32)
    widths = [part.shape[1] for part in values]
    for part, places in zip(values, _places(names, widths, batch), strict=True):
        column[places, 0] = part.reshape(-1)
    return column


def split_values(
    names: Sequence[str], widths: Sequence[int], column: NDArray[np.float32], batch: Batch
) -> list[NDArray[np.float32]]:
    """Return the values that `join_values` joined.

    Args:
        names: names of the outputs.
        widths: elements of a row of each.
        column: float32, (elements of all values, 1).
        batch: texts of the values.
    """
    return [
        column[places, 0].reshape(-1, width)
        for width, places in zip(widths, _places(names, widths, batch), strict=True)
    ]


def _places(names: Sequence[str], widths: Sequence[int], batch: Batch) -> Iterator[NDArray[np.int64]]:
    """Yield the places of each output's elements in the column, text by text."""
    rows = [
        ValueRows(0, width) if name in TOKEN_OUTPUTS else ValueRows(width, 0)
        for name, width in zip(names, widths, strict=True)
    ]
    whole = ValueRows(sum(part.per_text for part in rows), sum(part.per_token for part in rows))
    lengths = batch.lengths
    starts = whole.per_text * np.arange(len(batch)) + whole.per_token * batch.offsets[:-1]  # (texts,)
    for part in rows:
        counts = part.per_text + part.per_token * lengths
        first = np.cumsum(counts) - counts
        yield np.repeat(starts - first, counts) + np.arange(int(counts.sum()))
        starts = starts + counts
