"""Columns of a dataset of Longbow, and the checks and conversions of the rows to send."""

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

#: Longbow's search returns ids of 32 bits.
MAX_ID: Final = 2**32 - 1

#: Largest deviation of a norm from 1. The relative rounding error of float16 is at most 2^-11, so that of a norm is
#: below 0.0005.
NORM_TOLERANCE: Final = 1e-3


def longbow_schema(dimension: int, *, with_text: bool) -> pa.Schema:
    """Return the columns of a dataset.

    Longbow requires that the schema, including the list's nullability, never changes.

    Args:
        dimension: dimension of the vectors.
        with_text: whether the texts are stored; Longbow adds every string column to its full-text index.
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
    """Reject rows that do not fit into a dataset.

    Longbow's `DoExchange` does not check the schema: it would store the rows and not index them. Longbow could also
    not restart, because it compares the schemas when it reads its disk at the start.

    Args:
        dataset: name of the dataset, for the message.
        there: schema of the dataset.
        ours: schema of the rows.

    Raises:
        InputError: a column of the same name has another type, or the vectors have another dimension.
    """
    for field in ours:
        place = there.get_field_index(field.name)
        if place < 0 or there.field(place).type == field.type:
            continue
        stored = there.field(place).type
        if pa.types.is_fixed_size_list(stored) and stored.list_size != field.type.list_size:
            raise InputError(
                f"the dataset {dataset!r} has vectors of {stored.list_size} numbers, and these have {field.type.list_size}: "
                "use another dataset, or the model and the --dimensions of the dataset"
            )
        if (
            pa.types.is_fixed_size_list(stored)
            and stored.value_type == field.type.value_type
            and stored.value_field.nullable == field.type.value_field.nullable
        ):
            continue  # the name of the inner field is free
        raise InputError(
            f"the dataset {dataset!r} keeps {field.name!r} as {stored}, and these rows have {field.type}: use another dataset"
        )


def widen(embeddings: Embeddings, *, allow_unnormalized: bool) -> NDArray[np.float32]:
    """Check vectors, and convert them to float32 for Longbow.

    The conversion of float16 is exact. Each element of an int8 vector differs from the model's value by half a scale at
    most.

    Args:
        embeddings: float32, float16 or int8 vectors.
        allow_unnormalized: whether vectors whose norm is not 1 are accepted.

    Returns:
        float32, (n, dimension).

    Raises:
        InputError: the vectors are bits, or Longbow would not rank them by cosine.
    """
    vectors = embeddings.vectors
    if vectors.dtype == np.uint8:
        raise InputError("Longbow indexes float32 vectors, and ubinary keeps only the signs: use float32")
    tolerance: NDArray[np.float32] | float = NORM_TOLERANCE
    if embeddings.scales is not None:
        wide = vectors.astype(np.float32) * embeddings.scales[:, None]
        # The error of an element is half a scale at most, so that of the norm is half a scale times the root of the
        # dimension.
        tolerance = NORM_TOLERANCE + embeddings.scales * np.float32(np.sqrt(vectors.shape[1]) / 2)
    else:
        wide = np.ascontiguousarray(vectors, np.float32)
    if not allow_unnormalized and len(wide):
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        if not (np.abs(norms - 1) <= tolerance).all():  # NaN fails this too
            worst = float(norms[int(np.argmax(np.abs(norms - 1)))])
            raise InputError(
                f"a vector has the norm {worst:.4g} and not 1. Longbow has only Euclidean distance, which ranks like "
                "cosine for normalized vectors only: use a model that normalizes, or accept this with --allow-unnormalized"
            )
        if embeddings.scales is not None:
            wide /= norms[:, None]  # the vector had norm 1 before it was rounded
    return wide


def cosine_loss(embeddings: Embeddings) -> float:
    """Return an upper bound of 1 - cosine between a rounded vector and the vector that the model computed.

    For float16, the relative error of an element, and so of the vector, is 2^-11 at most. For int8, the error of an
    element is half a scale at most, so the error of the vector is half a scale times the root of its dimension. A
    relative error e turns a vector by arcsin e at most.

    Args:
        embeddings: float32, float16 or int8 vectors; float32 has no loss.
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
    """Return the rows for Longbow. The vectors are not copied.

    Args:
        schema: schema from `longbow_schema`.
        ids: ids from 0 to 2^32 - 1, int64, (n,).
        vectors: vectors, float32, (n, dimension).
        texts: n texts; ignored if the schema has no column for them.
        metadata: n JSON objects.
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
