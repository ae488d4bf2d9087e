"""Longbow's columns: what a row is there, and what of ours cannot be one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import InputError

__all__ = ["MAX_ID", "check_schema", "cosine_loss", "longbow_schema", "make_batch", "widen"]

#: Search gives ids of 32 bits.
MAX_ID: Final = 2**32 - 1

#: How far from 1 a norm may be: float16 rounds a component by up to 2^-11 of itself, so a norm by less than 0.0005.
NORM_TOLERANCE: Final = 1e-3


def longbow_schema(dimension: int, *, with_text: bool) -> pa.Schema:
    """The columns of a dataset. Longbow wants one schema for a dataset's life, the list's inner nullability included.

    Args:
        dimension: of the vectors.
        with_text: whether the texts go along; every string column enters Longbow's full-text index.
    """
    fields = [
        pa.field("id", pa.int64()),
        pa.field("vector", pa.list_(pa.field("item", pa.float32()), dimension)),
        *([pa.field("text", pa.string())] if with_text else []),
        pa.field("metadata", pa.string()),
        pa.field("timestamp", pa.timestamp("ns")),
    ]
    return pa.schema(fields)


def check_schema(dataset: str, there: pa.Schema, ours: pa.Schema) -> None:
    """Refuses rows that a dataset cannot take. Longbow's `DoExchange` does not look: it would store them and index none, and
    could never start again, since at its start it compares what it reads from its disk.

    Args:
        dataset: its name, for the message.
        there: the dataset's columns.
        ours: those of the rows.

    Raises:
        InputError: a column of the same name has another type, or the vectors another length.
    """
    for field in ours:
        place = there.get_field_index(field.name)
        if place < 0 or there.field(place).type == field.type:
            continue
        found = there.field(place).type
        if pa.types.is_fixed_size_list(found) and found.list_size != field.type.list_size:
            raise InputError(
                f"the dataset {dataset!r} has vectors of {found.list_size} numbers, and these have {field.type.list_size}: "
                "use another dataset, or the model and the --dimensions that it was made with"
            )
        if (
            pa.types.is_fixed_size_list(found)
            and found.value_type == field.type.value_type
            and found.value_field.nullable == field.type.value_field.nullable
        ):
            continue  # the inner field's name is the writer's
        raise InputError(
            f"the dataset {dataset!r} keeps {field.name!r} as {found}, and these rows have {field.type}: use another dataset"
        )


def widen(embeddings: Embeddings, *, allow_unnormalized: bool) -> NDArray[np.float32]:
    """Vectors as Longbow's float32, checked.

    float16 and int8 vectors are widened: float16 exactly, of int8 each element is within half a scale of the model's own.

    Args:
        embeddings: float32, float16 or int8 vectors.
        allow_unnormalized: whether vectors whose norm is not 1 may pass.

    Returns:
        float32, (n, dimension).

    Raises:
        InputError: bits instead of numbers, or vectors that Longbow would rank by something else than cosine.
    """
    vectors = embeddings.vectors
    if vectors.dtype == np.uint8:
        raise InputError("Longbow indexes float32 vectors; of ubinary ones only the signs are left: use float32")
    tolerance: NDArray[np.float32] | float = NORM_TOLERANCE
    if embeddings.scales is not None:
        wide = vectors.astype(np.float32) * embeddings.scales[:, None]
        # Each element is off by half a scale at most, so the norm by half a scale times the root of the dimension.
        tolerance = NORM_TOLERANCE + embeddings.scales * np.float32(np.sqrt(vectors.shape[1]) / 2)
    else:
        wide = np.ascontiguousarray(vectors, np.float32)
    if not allow_unnormalized and len(wide):
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        if not (np.abs(norms - 1) <= tolerance).all():  # NaN fails this too
            worst = float(norms[int(np.argmax(np.abs(norms - 1)))])
            raise InputError(
                f"a vector has the norm {worst:.4g} and not 1. Longbow knows Euclidean distance only, which ranks as cosine "
                "does for normalized vectors alone: use a model that normalizes, or ask for it with --allow-unnormalized"
            )
        if embeddings.scales is not None:
            wide /= norms[:, None]  # the vector had length 1 before it was rounded
    return wide


def cosine_loss(embeddings: Embeddings) -> float:
    """How far rounding can have turned a vector: 1 - cosine to the one that the model computed is at most this.

    Of float16 an element is off by 2^-11 of itself at most, so the vector by 2^-11 of its length; of int8 by half a scale, so
    the vector by half a scale times the root of its dimension. A vector that is off by a share e of its length is turned by
    arcsin e at most.

    Args:
        embeddings: float32, which lost nothing, float16 or int8 vectors.
    """
    off = 0.0
    if embeddings.scales is not None and len(embeddings.scales):
        rounding = embeddings.scales * np.float32(np.sqrt(embeddings.vectors.shape[1]) / 2)
        lengths = np.linalg.norm(embeddings.vectors.astype(np.float32), axis=1) * embeddings.scales
        off = float((rounding / np.maximum(lengths - rounding, 1e-12)).max())
    elif embeddings.vectors.dtype == np.float16:
        off = 2.0**-11
    return float(1 - np.sqrt(1 - min(off, 1.0) ** 2))


def make_batch(
    schema: pa.Schema,
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    texts: Sequence[str],
    metadata: Sequence[str],
) -> pa.RecordBatch:
    """Rows for Longbow; the vectors stay where they are.

    Args:
        schema: from `longbow_schema`.
        ids: int64, (n,), 0 to 2^32 - 1.
        vectors: float32, (n, dimension).
        texts: n of them; left out where the schema has no place for them.
        metadata: JSON, n of them.
    """
    columns = {
        "id": pa.array(ids),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.field("vector").type),
        "metadata": pa.array(metadata, pa.string()),
        "timestamp": pa.array(np.full(len(ids), time.time_ns(), "datetime64[ns]")),
    }
    if "text" in schema.names:
        columns["text"] = pa.array(texts, pa.string())
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
