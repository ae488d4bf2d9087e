"""Types of elements, with the arithmetic of sentence-transformers' `quantize_embeddings` (util/quantization.py of 6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import ArgumentError, Precision

__all__ = ["quantize", "quantize_each"]

Vectors = NDArray[np.float32]

#: Steps between the smallest and the largest value of a dimension.
STEPS = 255


def quantize(vectors: Vectors, precision: Precision | None) -> NDArray[Any]:
    """Return vectors in a type.

    `int8` and `uint8` divide the range of each dimension over all vectors of the call into 255 steps, so a vector has other
    codes in another call. `ubinary` has one bit for each element, `binary` is the same minus 128.

    Args:
        vectors: float32, (n, dimension).
        precision: name of the type; None is `float32`.

    Returns:
        float32 (the argument itself), int8 or uint8, (n, dimension), or for bits (n, dimension / 8).

    Raises:
        ArgumentError: a range cannot be computed from one vector.
    """
    if precision in ("int8", "uint8") and len(vectors) == 1:
        raise ArgumentError(
            "precision",
            f"precision={precision!r} takes the range of each dimension from the vectors of the call, and there is only one: "
            "encode several texts, or use float32 and quantize with ranges of your own",
        )
    return _quantize(vectors, precision)


def quantize_each(matrices: Sequence[Vectors], precision: Precision | None) -> list[NDArray[Any]]:
    """Return the token vectors of several texts in a type, with the ranges of all of them.

    Args:
        matrices: for each text, float32, (tokens, dimension).
        precision: name of the type; None is `float32`.
    """
    if precision in (None, "float32") or not matrices:
        return list(matrices)
    codes = _quantize(np.concatenate(matrices), precision)
    return np.split(codes, np.cumsum([len(matrix) for matrix in matrices])[:-1])


def _quantize(vectors: Vectors, precision: Precision | None) -> NDArray[Any]:
    """Return vectors in a type, with the range of each dimension in them."""
    if precision in (None, "float32"):
        return vectors
    if precision in ("binary", "ubinary"):
        bits: NDArray[np.uint8] = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits - 128).astype(np.int8)
    if not len(vectors):
        return np.zeros(vectors.shape, np.int8 if precision == "int8" else np.uint8)
    starts, ends = vectors.min(axis=0), vectors.max(axis=0)
    steps = (ends - starts) / STEPS
    steps = np.where(steps == 0, 1, steps)
    codes: Vectors = np.clip(np.floor((vectors - starts) / steps), 0, STEPS)
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)
