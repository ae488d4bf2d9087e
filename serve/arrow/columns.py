"""Embeddings as Arrow columns, on Flight and in files: `vector`, `scale` for int8, `chunks` if texts were split.

Further outputs of BGE-M3 are the columns `sparse` and `token_vectors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fletcher.runtime import Embeddings, TextOutputs
from fletcher.runtime.inputs import Requested
from fletcher.runtime.options.embed import EmbedOptions

__all__ = ["VECTOR_COLUMN", "Widths", "made_columns", "vector_columns", "vector_fields"]

#: The column of vectors. Longbow indexes only a column of this name.
VECTOR_COLUMN = "vector"
SCALE_COLUMN = "scale"
CHUNKS_COLUMN = "chunks"
SPARSE_COLUMN = "sparse"
TOKENS_COLUMN = "token_vectors"

_ELEMENTS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}


@dataclass(frozen=True, slots=True)
class Widths:
    """Elements of vectors, and the further outputs beside them.

    Attributes:
        dimension: elements of a text's vector.
        output: the requested output, or several.
        token_dimension: elements of a token's vector, if they are among the outputs.
    """

    dimension: int
    output: Requested = "vectors"
    token_dimension: int = 0


def made_columns(options: EmbedOptions, output: Requested = "vectors") -> list[str]:
    """Return the names of the columns that these options add for a requested output, or several."""
    return [field.name for field in vector_fields(Widths(8, output, 1), options)]


def vector_fields(widths: Widths, options: EmbedOptions, *, nullable: bool = False) -> list[Any]:
    """Return the fields of the vector columns. The columns never hold a null.

    Args:
        widths: elements of the vectors, and the further outputs.
        options: options of the vectors.
        nullable: whether the fields allow nulls. Readers of Flight and HTTP expect Arrow's default, which allows nulls.

    Returns:
        `vector`, a fixed-size list of the element type, or fixed-size binary with one bit for each element; `scale`, float32,
        for int8; `chunks`, a list of {start, end, vector[, scale]}, for windows and late chunking; for further outputs
        `sparse`, a list of {index, weight}, int32 and float32, and `token_vectors`, a list of fixed-size lists of float32.
    """
    dimension = widths.dimension
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
    if "sparse" in widths.output:
        parts = [
            pa.field(name, kind, nullable=nullable) for name, kind in (("index", pa.int32()), ("weight", pa.float32()))
        ]
        fields.append(_list_field(SPARSE_COLUMN, pa.struct(parts), nullable=nullable))
    if "token_vectors" in widths.output:
        row = pa.list_(pa.field("item", pa.float32(), nullable=nullable), widths.token_dimension)
        fields.append(_list_field(TOKENS_COLUMN, row, nullable=nullable))
    return fields


def _list_field(name: str, item: Any, *, nullable: bool) -> Any:
    return pa.field(name, pa.list_(pa.field("item", item, nullable=nullable)), nullable=nullable)


def vector_columns(answer: Embeddings | TextOutputs, fields: list[Any]) -> list[Any]:
    """Return the arrays of the columns. The vectors are not copied.

    Args:
        answer: embeddings of a batch of texts, with further outputs if they were requested.
        fields: the fields that `vector_fields` returned.
    """
    kinds = {field.name: field.type for field in fields}
    if isinstance(answer, Embeddings):
        return _dense_columns(answer, kinds)
    assert answer.vectors is not None  # the vectors are always among the outputs
    return [*_dense_columns(answer.vectors, kinds), *_further_columns(answer, kinds)]


def _further_columns(outputs: TextOutputs, kinds: Mapping[str, Any]) -> list[Any]:
    columns = []
    if (sparse := outputs.sparse) is not None:
        kind = kinds[SPARSE_COLUMN]
        items = pa.StructArray.from_arrays(
            [pa.array(sparse.indices, pa.int32()), pa.array(sparse.values, pa.float32())], fields=list(kind.value_type)
        )
        columns.append(pa.ListArray.from_arrays(pa.array(sparse.offsets.astype(np.int32)), items, type=kind))
    if (tokens := outputs.token_vectors) is not None:
        kind = kinds[TOKENS_COLUMN]
        rows = _vectors(tokens.vectors, kind.value_type)
        columns.append(pa.ListArray.from_arrays(pa.array(tokens.offsets.astype(np.int32)), rows, type=kind))
    return columns


def _dense_columns(embeddings: Embeddings, kinds: Mapping[str, Any]) -> list[Any]:
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
