"""Tables and record batches with vectors beside their texts, for bulk jobs and clusters. Vectors are not copied."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions

from .columns import Widths, vector_columns, vector_fields

__all__ = ["append_vectors", "column_texts"]

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def column_texts(batch: Any, column: str, first_row: int, name: str) -> list[str]:
    """Return the texts of a record batch as Python strings, which a tokenizer needs; they live as long as their chunk.

    Args:
        batch: a `pyarrow.RecordBatch`.
        column: name of the column.
        first_row: row of the batch in its file, for messages.
        name: name of the file, for messages.

    Raises:
        InputError: the column does not hold strings, or a text is null.
    """
    values = batch.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"{name}: the column {column!r} holds {kind}, and must hold strings")
    if values.null_count:
        row = first_row + pc.indices_nonzero(values.is_null())[0].as_py()
        raise InputError(f"{name}, row {row} (from 0): {column!r} is null; fill it or leave the row out")
    try:
        return cast(list[str], values.to_pylist())
    except UnicodeDecodeError as error:
        last = first_row + batch.num_rows - 1
        raise InputError(f"{name}, rows {first_row} to {last}: {column!r} is not UTF-8: {error}") from error


def append_vectors(rows: Rows, embeddings: Embeddings, options: EmbedOptions, dimension: int) -> Rows:
    """Return rows with the columns that the options make: `vector`, `scale` for int8, `chunks` if texts are split.

    Args:
        rows: a table or a record batch.
        embeddings: embeddings of its rows.
        options: options of the vectors.
        dimension: elements of the model's vectors.
    """
    fields = vector_fields(Widths(options.dimensions or dimension), options, nullable=True)
    for made, values in zip(fields, vector_columns(embeddings, fields), strict=True):
        rows = rows.append_column(made, values)
    return rows
