"""Similarities of vectors, with the definitions of sentence-transformers' util/similarity.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tensors import to_array

__all__ = ["FUNCTIONS", "pairwise_similarity", "similarity"]

Vectors = NDArray[Any]

#: Largest number of elements of the differences that `_distances` holds at a time: 256 MiB of float32.
CHUNK_ELEMENTS = 1 << 26

#: Smallest norm that a vector is divided by, as in `torch.nn.functional.normalize`.
EPSILON = 1e-12


def similarity(name: str, first: Any, second: Any) -> Vectors:
    """Return the similarity of each vector of `first` to each of `second`.

    Args:
        name: a key of `FUNCTIONS`. The distances of `euclidean` and `manhattan` are negative.
        first: arrays, tensors or lists of them, (n, dimension) or (dimension,).
        second: the same, (m, dimension) or (dimension,).

    Returns:
        float32, or float64 if an input is float64, (n, m).
    """
    return FUNCTIONS[name][0](np.atleast_2d(_floats(first)), np.atleast_2d(_floats(second)))


def pairwise_similarity(name: str, first: Any, second: Any) -> Vectors:
    """Return the similarity of each vector of `first` to the vector of `second` in the same place.

    Args:
        name: a key of `FUNCTIONS`.
        first, second: arrays, tensors or lists of them, (n, dimension) or (dimension,).

    Returns:
        float32, or float64 if an input is float64, (n,), or a single number for single vectors.
    """
    return np.asarray(FUNCTIONS[name][1](_floats(first), _floats(second)))


def _floats(vectors: Any) -> Vectors:
    """Return vectors as floats: narrower types are rounded in products."""
    array = to_array(vectors)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _normalized(vectors: Vectors) -> Vectors:
    norms: Vectors = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), EPSILON)
    return vectors / norms


def _products(first: Vectors, second: Vectors) -> Vectors:
    return first @ second.T


def _pairwise_products(first: Vectors, second: Vectors) -> Vectors:
    return np.asarray(np.sum(first * second, axis=-1))


def _cosines(first: Vectors, second: Vectors) -> Vectors:
    return _products(_normalized(first), _normalized(second))


def _pairwise_cosines(first: Vectors, second: Vectors) -> Vectors:
    return _pairwise_products(_normalized(first), _normalized(second))


def _distances(order: int) -> Callable[[Vectors, Vectors], Vectors]:
    """Return a function from two lists of vectors to the negative distances of an order."""

    def distances(first: Vectors, second: Vectors) -> Vectors:
        rows = max(1, CHUNK_ELEMENTS // max(second.size, 1))
        parts = [
            np.linalg.norm(first[start : start + rows, None] - second[None], ord=order, axis=-1)
            for start in range(0, len(first), rows)
        ]
        return np.negative(np.concatenate(parts)) if parts else np.zeros((0, len(second)), first.dtype)

    return distances


def _pairwise_distances(order: int) -> Callable[[Vectors, Vectors], Vectors]:
    """Return a function from two lists of vectors to the negative distances of their pairs."""
    return lambda first, second: -np.linalg.norm(first - second, ord=order, axis=-1)


#: For each name, the function for all pairs and the function for vectors in the same place.
FUNCTIONS: Mapping[str, tuple[Callable[[Vectors, Vectors], Vectors], Callable[[Vectors, Vectors], Vectors]]] = (
    MappingProxyType(
        {
            "cosine": (_cosines, _pairwise_cosines),
            "dot": (_products, _pairwise_products),
            "euclidean": (_distances(2), _pairwise_distances(2)),
            "manhattan": (_distances(1), _pairwise_distances(1)),
        }
    )
)
