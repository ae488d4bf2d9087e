"""Embeddings as Arrow columns, on Flight and in files: `vector`, `scale` for int8, `chunks` if texts were split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fletcher.runtime import Embeddings
from fletcher.runtime.options.embed import EmbedOptions

__all__ = ["VECTOR_COLUMN", "made_columns", "vector_columns", "vector_fields"]

#: The column of vectors. Longbow indexes only a column of this name.
VECTOR_COLUMN = "vector"
SCALE_COLUMN = "scale"
CHUNKS_COLUMN = "chunks"

_ELEMENTS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}


def made_columns(options: EmbedOptions) -> list[str]:
    """Return the names of the columns that these options add."""
    return [field.name for field in vector_fields(8, options)]


def vector_fields(dimension: int, options: EmbedOptions, *, nullable: bool = False) -> list[Any]:
    """Return the fields of the vector columns. The columns never hold a null.

    Args:
        dimension: elements of a vector.
        options: options of the vectors.
        nullable: whether the fields allow nulls. Readers of Flight and HTTP expect Arrow's default, which allows nulls.

    Returns:
        `vector`, a fixed-size list of the element type, or fixed-size binary with one bit for each element; `scale`, float32,
        for int8; `chunks`, a list of {start, end, vector[, scale]}, for windows and late chunking.
    """
    if options.dtype == "ubinary":
        kind = pa.binary(dimension // 8)
    else:
        kind = pa.list_(pa.field("item", _ELEMENTS[options.dtype], nullable=nullable), dimension)
    fields = [pa.field(VECTOR_COLUMN, kind, nullable=nullable)]
    if options.dtype == "int8":
        fields.append(pa.field(SCALE_COLUMN, pa.float32(), nullable=nullable))
    if options.splits:
        places = [pa.field(name, pa.int64(), nullable=nullable) for name in ("start", "end")]
        chunk = pa.struct([*places, *fields])
        fields.append(pa.field(CHUNKS_COLUMN, pa.list_(pa.field("item", chunk, nullable=nullable)), nullable=nullable))
    return fields


def vector_columns(embeddings: Embeddings, fields: list[Any]) -> list[Any]:
    """Return the arrays of the columns. The vectors are not copied.

    Args:
        embeddings: embeddings of a batch of texts.
        fields: the fields that `vector_fields` returned.
    """
    kinds = {field.name: field.type for field in fields}
    columns = [_vectors(embeddings.vectors, kinds[VECTOR_COLUMN])]
    if SCALE_COLUMN in kinds:
        columns.append(pa.array(embeddings.scales, pa.float32()))
    chunks = embeddings.chunks
    if CHUNKS_COLUMN in kinds and chunks is not None:
        item = kinds[CHUNKS_COLUMN].value_type
        starts, ends = (pa.array(np.ascontiguousarray(chunks.spans[:, side])) for side in (0, 1))
        parts = [starts, ends, _vectors(chunks.vectors, kinds[VECTOR_COLUMN])]
        if SCALE_COLUMN in kinds:
            parts.append(pa.array(chunks.scales, pa.float32()))
        structs = pa.StructArray.from_arrays(parts, fields=list(item))
        columns.append(
            pa.ListArray.from_arrays(pa.array(chunks.offsets.astype(np.int32)), structs, type=kinds[CHUNKS_COLUMN])
        )
    return columns


def _vectors(vectors: Any, kind: Any) -> Any:
    """Return vectors as an array of an Arrow type."""
    flat = np.ascontiguousarray(vectors).reshape(-1)
    if pa.types.is_fixed_size_binary(kind):
        return pa.FixedSizeBinaryArray.from_buffers(kind, len(vectors), [None, pa.py_buffer(flat)])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)  # uses numpy's buffer without a copy
