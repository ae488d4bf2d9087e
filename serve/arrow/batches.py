"""Record batches: the choice of the column to embed, its rows as strings, and the schema and columns of the answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa

from fletcher import __version__
from fletcher.runtime import Embeddings, TextOutputs
from fletcher.runtime.inputs import Requested
from fletcher.runtime.options.embed import EmbedOptions

from ..errors import FieldError
from ..models.description import ModelDescription
from .columns import Widths, made_columns, vector_columns, vector_fields
from .options import ArrowOptions

__all__ = ["DEFAULT_COLUMN", "choose_column", "output_schema", "read_texts", "with_vectors"]

#: The column that is embedded if a stream has several string columns. Longbow uses the same name.
DEFAULT_COLUMN = "text"


def choose_column(schema: Any, options: ArrowOptions) -> int:
    """Return the index of the column to embed.

    Args:
        schema: the stream's `pyarrow.Schema`.
        options: the client's options.

    Raises:
        FieldError: no column fits, or several do.
    """
    try:
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema) or "no column"
    except UnicodeDecodeError:
        raise FieldError("a column of the stream has a name that is not UTF-8", None) from None
    for name in made_columns(options.embed, options.output):
        if schema.get_all_field_indices(name):
            raise FieldError(f"the stream has a column {name!r} already ({columns}): rename it", name)
    requested = options.column
    strings = [index for index, field in enumerate(schema) if _is_text(field.type)]
    named = [index for index in strings if schema.field(index).name == (requested or DEFAULT_COLUMN)]
    if requested is None and not named:
        named = strings
    if len(named) == 1:
        return named[0]
    if requested is not None:
        many = "has several string columns" if named else "has no string column"
        raise FieldError(f"the stream {many} named {requested!r}; it has {columns}", "column")
    if not strings:
        raise FieldError(f"the stream has no string column; it has {columns}", "column")
    raise FieldError(f'the stream has several string columns ({columns}): name one with {{"column": …}}', "column")


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def read_texts(batch: Any, column: int, first_row: int) -> list[str]:
    """Return the column's rows as Python strings.

    Args:
        batch: a `pyarrow.RecordBatch`.
        column: index of the column.
        first_row: rows of the stream before this batch, for error messages.

    Raises:
        FieldError: the column has a null, or the batch's buffers contradict its schema.
    """
    try:
        batch.validate(full=True)  # Arrow's C++ code reads a client's offsets and indices without a check
    except pa.ArrowInvalid as error:
        raise FieldError(f"the record batch from row {first_row} is not valid: {error}", None) from None
    values = batch.column(column)
    texts: list[str | None]
    if pa.types.is_dictionary(values.type):
        words = values.dictionary.to_pylist()
        texts = [None if index is None else words[index] for index in values.indices.to_pylist()]
    else:
        texts = values.to_pylist()
    if None in texts:
        row = texts.index(None)
        name = batch.schema.field(column).name
        raise FieldError(
            f"row {first_row + row} (row {row} of its batch) of column {name!r} is null: fill it or leave it out", name
        )
    return cast(list[str], texts)


def output_schema(
    schema: Any, model: ModelDescription, options: EmbedOptions, space: str, output: Requested = "vectors"
) -> Any:
    """Return the stream's schema with the vector columns. Its metadata has the model, the space and the options.

    Args:
        schema: schema of the client's batches.
        model: the model that answers.
        options: options of the vectors.
        space: identifier of the space of the vectors.
        output: the requested output, or several.
    """
    size = model.dimension if options.dimensions is None else options.dimensions
    normalized = model.normalized if options.normalize is None else options.normalize
    metadata = dict(schema.metadata or {}) | {
        b"fletcher.version": __version__.encode(),
        b"fletcher.model": model.name.encode(),
        b"fletcher.digest": model.digest.encode(),
        b"fletcher.variant": model.variant.encode(),
        b"fletcher.space": space.encode(),
        b"fletcher.dimension": b"%d" % size,
        b"fletcher.dtype": options.dtype.encode(),
        b"fletcher.normalization": b"l2" if normalized else b"none",
        b"fletcher.model_version": model.version.encode(),
        b"fletcher.time": datetime.now(UTC).isoformat(timespec="seconds").encode(),
    }
    for field in vector_fields(Widths(size, output, model.token_dimension), options, nullable=True):
        schema = schema.append(field)
    return schema.with_metadata(metadata)


def with_vectors(batch: Any, embeddings: Embeddings | TextOutputs, schema: Any) -> Any:
    """Return the batch with its vector columns. The vectors are not copied.

    Args:
        batch: a `pyarrow.RecordBatch`.
        embeddings: embeddings of its texts, with further outputs if they were requested.
        schema: the schema that `output_schema` returned.
    """
    columns = vector_columns(embeddings, [schema.field(index) for index in range(batch.num_columns, len(schema))])
    return pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)
