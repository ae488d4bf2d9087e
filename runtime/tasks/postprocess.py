"""Post-processing of vectors: Matryoshka lengths, normalization and types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard

from ..errors import OptionError
from ..options.embed import DType

__all__ = ["cast", "normalize", "shorten"]

Vectors = NDArray[np.float32]

#: Defaults of torch's `nn.functional.layer_norm` and `nn.functional.normalize`.
LAYER_NORM_EPSILON = 1e-5
NORMALIZE_EPSILON = 1e-12

#: Largest absolute value of an int8 element; -128 is not used, so that a vector and its opposite have opposite codes.
LARGEST_INT8 = 127


def shorten(vectors: Vectors, card: ModelCard, dimensions: int | None) -> Vectors:
    """Cut vectors to one of the model's Matryoshka dimensions.

    The steps and their order are the model's: layer norm without weights (if the card requires it), cut, L2 normalization.
    If the graph has normalized the vectors, their layer norm differs from that of the vectors before normalization only in
    length, which the last step sets again.

    Args:
        vectors: float32, (n, dimension).
        card: the model's card.
        dimensions: the requested length; None leaves the vectors as they are.

    Returns:
        float32, (n, dimensions); the argument itself if there is nothing to do.

    Raises:
        OptionError: the model was not trained for that length.
    """
    if dimensions in (None, card.dimension):
        return vectors
    if dimensions not in card.matryoshka:
        offered = ", ".join(map(str, dict.fromkeys([card.dimension, *card.matryoshka])))
        raise OptionError("dimensions", f"dimensions is {dimensions}; {card.name} gives vectors of {offered}")
    if card.layer_norm_before_truncation:
        centered = vectors - vectors.mean(axis=1, keepdims=True)
        vectors = centered / np.sqrt(np.square(centered).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
    cut = vectors[:, :dimensions]
    return normalize(cut) if card.normalize else np.ascontiguousarray(cut)


def normalize(vectors: Vectors) -> Vectors:
    """Return vectors of L2 norm 1, as `torch.nn.functional.normalize`: x / max(|x|, 1e-12)."""
    norms: Vectors = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), NORMALIZE_EPSILON)
    return vectors / norms


def cast(vectors: Vectors, dtype: DType) -> tuple[NDArray[Any], Vectors | None]:
    """Return vectors in the requested type.

    `int8` is round(element / scale), where the scale of a vector is its largest absolute element / 127. The rounding error of
    an element is at most half a scale. A zero vector has scale 0. `ubinary` is the same as sentence-transformers'
    `quantize_embeddings(precision="ubinary")`: bit 7 of byte 0 is 1 if element 0 is above 0, bit 6 is for element 1, and so
    on.

    Args:
        vectors: float32, (n, dimension).
        dtype: the requested type.

    Returns:
        float32 (the argument itself), float16 or int8, (n, dimension), or uint8, (n, dimension / 8); and for int8 the
        scales, float32, (n,), else None.
    """
    if dtype == "float32":
        return vectors, None
    if dtype == "float16":
        return vectors.astype(np.float16, copy=False), None
    if dtype == "ubinary":
        return np.packbits(vectors > 0, axis=1), None
    scales: Vectors = np.abs(vectors).max(axis=1, initial=0) / np.float32(LARGEST_INT8)
    safe = np.where(scales > 0, scales, np.float32(1))
    return np.rint(vectors / safe[:, None]).astype(np.int8), scales
