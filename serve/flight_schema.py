"""Record batches on Flight: which column is embedded, how its rows become strings, and how vectors join them."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fletcher import __version__

from .errors import FieldError
from .served import ServedModel

__all__ = ["EmbedOptions", "choose_column", "output_schema", "read_options", "read_texts", "with_vectors"]

#: The column that a stream with several string columns is expected to name; also Longbow's.
DEFAULT_COLUMN = "text"
#: Longbow indexes the column of this name and no other.
VECTOR_COLUMN = "vector"


class EmbedOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may say in a command descriptor, or in the first message's metadata, as JSON.

    Attributes:
        column: which column to embed; None is `text`, or the only string column.
        input_type: which prompt of the model's the texts get; None is "document".
        dimensions: a Matryoshka length; None is the model's full one.
        model: the served model's name; None is the only one.
    """

    column: str | None = None
    input_type: str | None = None
    dimensions: int | None = None
    model: str | None = None


def read_options(data: bytes, model: ServedModel) -> EmbedOptions:
    """Reads and checks options.

    Raises:
        FieldError: not JSON, an unknown field, or a value that the model does not have.
        UnknownModelError: the model has another name.
    """
    try:
        options = msgspec.json.decode(data, type=EmbedOptions)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FieldError(
            f'the options are not usable: {error}. They are JSON such as {{"column": "text"}}', None
        ) from None
    if options.model is not None:
        model.check_name(options.model)
    model.check_options(options.input_type, options.dimensions)
    return options


def choose_column(schema: Any, wanted: str | None) -> int:
    """Index of the column to embed.

    Args:
        schema: the stream's `pyarrow.Schema`.
        wanted: the column that the client named, if it did.

    Raises:
        FieldError: there is none, or several.
    """
    found = ", ".join(f"{field.name}: {field.type}" for field in schema) or "no column"
    if schema.get_all_field_indices(VECTOR_COLUMN):
        raise FieldError(f"the stream has a column {VECTOR_COLUMN!r} already ({found}): rename it", VECTOR_COLUMN)
    strings = [index for index, field in enumerate(schema) if _is_text(field.type)]
    named = [index for index in strings if schema.field(index).name == (wanted or DEFAULT_COLUMN)]
    if wanted is None and not named:
        named = strings
    if len(named) == 1:
        return named[0]
    if wanted is not None:
        many = "has several string columns" if named else "has no string column"
        raise FieldError(f"the stream {many} named {wanted!r}; it has {found}", "column")
    if not strings:
        raise FieldError(f"the stream has no string column; it has {found}", "column")
    raise FieldError(f'the stream has several string columns ({found}): name one with {{"column": …}}', "column")


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def read_texts(batch: Any, column: int, first_row: int) -> list[str]:
    """The column's rows as Python strings.

    Args:
        batch: a `pyarrow.RecordBatch`.
        column: index of the column.
        first_row: rows of the stream before this batch, for the error.

    Raises:
        FieldError: a null, or a batch whose buffers contradict its schema.
    """
    try:
        batch.validate(full=True)  # a client's offsets and indices are read in C++ as they are
    except pa.ArrowInvalid as error:
        raise FieldError(f"the record batch from row {first_row} is not valid: {error}", None) from None
    values = batch.column(column)
    texts: list[str | None]
    if pa.types.is_dictionary(values.type):
        words = [*values.dictionary.to_pylist(), None]  # so that a null index, made -1, finds None
        texts = [words[index] for index in values.indices.fill_null(-1).to_pylist()]
    else:
        texts = values.to_pylist()
    if None in texts:
        row = texts.index(None)
        name = batch.schema.field(column).name
        raise FieldError(
            f"row {first_row + row} (row {row} of its batch) of column {name!r} is null: fill it or leave it out", name
        )
    return cast(list[str], texts)


def output_schema(schema: Any, model: ServedModel, dimensions: int | None) -> Any:
    """The stream's schema with the vector column, and what made the vectors in its metadata."""
    size = model.dimension if dimensions is None else dimensions
    metadata = dict(schema.metadata or {}) | {
        b"fletcher.version": __version__.encode(),
        b"fletcher.model": model.name.encode(),
        b"fletcher.digest": model.digest.encode(),
        b"fletcher.variant": model.variant.encode(),
        b"fletcher.dimension": b"%d" % size,
        b"fletcher.normalization": b"l2" if model.normalized else b"none",
    }
    return schema.append(pa.field(VECTOR_COLUMN, pa.list_(pa.float32(), size))).with_metadata(metadata)


def with_vectors(batch: Any, vectors: NDArray[np.float32], schema: Any) -> Any:
    """The batch with its vectors, which stay where the session put them.

    Args:
        batch: a `pyarrow.RecordBatch`.
        vectors: float32, (n, dimension).
        schema: what `output_schema` gave.
    """
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))  # numpy's buffer itself; no copy
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.RecordBatch.from_arrays([*batch.columns, column], schema=schema)
