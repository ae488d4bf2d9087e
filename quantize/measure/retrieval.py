"""`storage_quality`: measures searches over stored int8 and binary vectors against a search over float32.

The codes are those that `--dtype int8` and `--dtype ubinary` return, so every result holds for vectors that Fletcher serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import InputError
from fletcher.runtime.tasks.postprocess import cast, normalize

from .metrics import NEIGHBORS

__all__ = ["OVERSAMPLE", "WAYS", "Comparing", "Rescoring", "StorageResult", "nearest", "search", "storage_quality"]

Vectors = NDArray[np.float32]

StoredType = Literal["int8", "ubinary"]

#: Score of a stored code against a query's code: `dot` and `cosine` are those of the int8 codes as they are, `scaled` is the
#: dot product of codes times their scales, `hamming` is the number of equal bits.
Comparing = Literal["dot", "cosine", "scaled", "hamming"]

#: Final order of a search's candidates: `none` keeps the first order; `codes` compares the float32 query with the stored
#: codes (int8 times its scale, or bits as 1 and -1); `int8` compares it with int8 codes on disk, beside the bits; `float32`
#: compares it with float32 vectors on disk.
Rescoring = Literal["none", "codes", "int8", "float32"]

#: Candidates that are rescored per result; `rescore_multiplier` of sentence-transformers is 2.
OVERSAMPLE = 4

#: Queries whose similarities are in memory at the same time.
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Way:
    """`Way`: a way to store vectors and to search them.

    Attributes:
        dtype: stored type.
        comparing: score that finds the candidates.
        rescoring: final order of the candidates.
    """

    dtype: StoredType
    comparing: Comparing
    rescoring: Rescoring


#: The measured ways. `dot` shows what a vector database returns that compares int8 by the dot product and ignores scales.
WAYS: Final = (
    Way("int8", "cosine", "none"),
    Way("int8", "dot", "none"),
    Way("int8", "scaled", "none"),
    Way("int8", "cosine", "codes"),
    Way("ubinary", "hamming", "none"),
    Way("ubinary", "hamming", "codes"),
    Way("ubinary", "hamming", "int8"),
    Way("ubinary", "hamming", "float32"),
)


class StorageResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`StorageResult`: accuracy of one way to store and search vectors.

    Attributes:
        dtype: stored type, as `--dtype` names it.
        comparing: score of a query's code and a stored one; see `Comparing`.
        rescoring: final order of the candidates; see `Rescoring`.
        candidates: number of vectors that `comparing` finds per query, of which the ten best are returned.
        bytes: size of a stored vector in the index, without the data that rescoring reads from disk.
        smaller: size of a float32 vector over that size.
        overlap: share of float32's ten nearest vectors that the search returns, mean over the queries.
    """

    dtype: StoredType
    comparing: Comparing
    rescoring: Rescoring
    candidates: int
    bytes: int
    smaller: float
    overlap: float


def nearest(
    queries: Vectors, documents: Vectors, count: int, own: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the documents with the largest dot products, best first, int64, (queries, count).

    Args:
        queries: (m, dimension).
        documents: (n, dimension).
        count: results per query, at most n.
        own: row of each query among the documents, which is not a result, int64, (m,).
    """
    results = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), CHUNK):
        rows = slice(start, start + CHUNK)
        scores = queries[rows] @ documents.T
        if own is not None:
            scores[np.arange(len(scores)), own[rows]] = -np.inf
        part = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
        results[rows] = np.take_along_axis(part, order, axis=1)
    return results


def search(
    queries: Vectors, documents: Vectors, way: Way, *, count: int = NEIGHBORS, own: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Search documents that are stored as codes, and return their rows, best first, int64, (queries, count).

    Args:
        queries: float32, (m, dimension), of length 1.
        documents: float32, (n, dimension), of length 1; this function encodes them.
        way: stored type, score and final order.
        count: results per query.
        own: row of each query among the documents, which is not a result, int64, (m,).
    """
    represent = _REPRESENTATIONS[way.comparing]
    candidates = nearest(represent(queries), represent(documents), _num_candidates(way, count, documents, own), own)
    if way.rescoring == "none":
        return candidates
    if way.rescoring == "float32":
        stored = documents
    else:
        stored = _signs(documents) if way.dtype == "ubinary" and way.rescoring == "codes" else _scaled(documents)
    scores = np.einsum("qd,qkd->qk", queries, stored[candidates])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(candidates, order, axis=1)


def _num_candidates(way: Way, count: int, documents: Vectors, own: NDArray[np.int64] | None) -> int:
    """Return the number of candidates per query: more than the results only if they are rescored."""
    return count if way.rescoring == "none" else min(count * OVERSAMPLE, len(documents) - (own is not None))


def _codes(vectors: Vectors) -> Vectors:
    """Return the int8 codes as numbers; float32 holds their dot products of up to 1,000 dimensions exactly."""
    return cast(vectors, "int8")[0].astype(np.float32)


def _unit_codes(vectors: Vectors) -> Vectors:
    """Return the int8 codes scaled to length 1, whose dot product is the cosine of the codes."""
    return normalize(_codes(vectors))


def _scaled(vectors: Vectors) -> Vectors:
    """Return the vectors that int8 codes and their scales describe."""
    codes, scales = cast(vectors, "int8")
    assert scales is not None
    scaled: Vectors = codes.astype(np.float32) * scales[:, None]
    return scaled


def _signs(vectors: Vectors) -> Vectors:
    """Return bits as 1 and -1: their dot product is the number of equal bits minus the number of different bits."""
    bits: NDArray[Any] = np.unpackbits(cast(vectors, "ubinary")[0], axis=1, count=vectors.shape[1])
    return bits.astype(np.float32) * 2 - 1


_REPRESENTATIONS: Final[dict[Comparing, Callable[[Vectors], Vectors]]] = {
    "dot": _codes,
    "cosine": _unit_codes,
    "scaled": _scaled,
    "hamming": _signs,
}


def storage_quality(vectors: Vectors) -> list[StorageResult]:
    """Measure every way to store and search, with each vector as a query for all the others.

    Args:
        vectors: float32, (n, dimension), n above 10. They are scaled to length 1. A dimension that is not a multiple of 8 has
            no `ubinary` results, because Fletcher does not return such vectors.

    Raises:
        InputError: there are too few vectors for ten neighbors each.
    """
    if len(vectors) <= NEIGHBORS:
        raise InputError(f"{len(vectors)} vectors are too few for {NEIGHBORS} neighbors each: give more texts")
    unit = normalize(vectors)
    own = np.arange(len(unit))
    truth = nearest(unit, unit, NEIGHBORS, own).tolist()
    dimension = unit.shape[1]
    results = []
    for way in WAYS:
        if way.dtype == "ubinary" and dimension % 8:
            continue
        rows = search(unit, unit, way, own=own).tolist()
        common = [len(set(ours) & set(theirs)) for ours, theirs in zip(rows, truth, strict=True)]
        size = dimension if way.dtype == "int8" else dimension // 8
        results.append(
            StorageResult(
                dtype=way.dtype,
                comparing=way.comparing,
                rescoring=way.rescoring,
                candidates=_num_candidates(way, NEIGHBORS, unit, own),
                bytes=size,
                smaller=4 * dimension / size,
                overlap=float(np.mean(common)) / NEIGHBORS,
            )
        )
    return results
