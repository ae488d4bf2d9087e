"""`storage_quality`: measures a search over quantized vectors against a search over float32, with and without rescoring."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import InputError
from fletcher.runtime.tasks.postprocess import normalize

from ..vectors import Calibration, CodeType, bytes_per_vector, decode, encode
from .metrics import NEIGHBORS

__all__ = ["OVERSAMPLE", "Rescoring", "StorageResult", "nearest", "search", "storage_quality"]

Vectors = NDArray[np.float32]

#: Final order of a search's candidates: `none` keeps the first order; `codes` compares the float32 query with the stored
#: codes; `int8` compares it with int8 codes on disk, beside the bits; `float32` compares it with float32 vectors on disk.
Rescoring = Literal["none", "codes", "int8", "float32"]

#: Candidates that are rescored per result; `rescore_multiplier` of sentence-transformers is 2.
OVERSAMPLE = 4

#: Queries whose similarities are in memory at the same time.
CHUNK = 256


class StorageResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`StorageResult`: accuracy of one way to store and search vectors.

    Attributes:
        code: `int8` or `binary`.
        rescoring: final order of the candidates; see `Rescoring`.
        bytes: size of a stored vector in the index, without the data that rescoring reads from disk.
        smaller: size of a float32 vector over that size.
        overlap: share of float32's ten nearest vectors that the search returns, mean over the queries.
    """

    code: CodeType
    rescoring: Rescoring
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
    queries: Vectors,
    documents: Vectors,
    calibration: Calibration,
    code: CodeType,
    rescoring: Rescoring,
    *,
    count: int = NEIGHBORS,
    own: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Search documents that are stored as codes, and return their rows, best first, int64, (queries, count).

    Without rescoring both sides are codes: the score is the dot product of decoded int8 codes, or the number of equal bits
    (Hamming).

    Args:
        queries: float32, (m, dimension).
        documents: float32, (n, dimension); this function encodes them.
        calibration: calibration of similar vectors.
        code: type of the stored codes.
        rescoring: final order of the candidates.
        count: results per query.
        own: row of each query among the documents, which is not a result, int64, (m,).
    """
    codes, query_codes = encode(documents, calibration, code), encode(queries, calibration, code)
    stored = decode(codes, calibration)
    num_candidates = count if rescoring == "none" else min(count * OVERSAMPLE, len(documents) - (own is not None))
    if code == "binary":
        # The dot product of signs is the number of equal bits minus the number of different bits.
        sides = [
            np.unpackbits(side.view(np.uint8), axis=1, count=calibration.dimension).astype(np.float32) * 2 - 1
            for side in (query_codes, codes)
        ]
        candidates = nearest(sides[0], sides[1], num_candidates, own)
    else:
        candidates = nearest(decode(query_codes, calibration), stored, num_candidates, own)
    if rescoring == "none":
        return candidates
    if rescoring == "int8":
        stored = decode(encode(documents, calibration, "int8"), calibration)
    elif rescoring == "float32":
        stored = documents
    scores = np.einsum("qd,qkd->qk", queries, stored[candidates])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(candidates, order, axis=1)


def storage_quality(vectors: Vectors, calibration: Calibration) -> list[StorageResult]:
    """Measure every way to store and rescore, with each vector as a query for all the others.

    Args:
        vectors: float32, (n, dimension), n above 10; other vectors than the calibration's.
        calibration: ranges and thresholds of the codes.

    Raises:
        InputError: there are too few vectors for ten neighbors each.
    """
    if len(vectors) <= NEIGHBORS:
        raise InputError(f"{len(vectors)} vectors are too few for {NEIGHBORS} neighbors each: give more texts")
    unit = normalize(vectors)
    own = np.arange(len(unit))
    truth = nearest(unit, unit, NEIGHBORS, own)
    ways: tuple[tuple[CodeType, Rescoring], ...] = (
        ("int8", "none"),
        ("int8", "codes"),
        ("binary", "none"),
        ("binary", "codes"),
        ("binary", "int8"),
        ("binary", "float32"),
    )
    results = []
    for code, rescoring in ways:
        rows = search(unit, unit, calibration, code, rescoring, own=own)
        common = [len(set(ours) & set(theirs)) for ours, theirs in zip(rows.tolist(), truth.tolist(), strict=True)]
        size = bytes_per_vector(calibration.dimension, code)
        results.append(
            StorageResult(
                code=code,
                rescoring=rescoring,
                bytes=size,
                smaller=4 * calibration.dimension / size,
                overlap=float(np.mean(common)) / NEIGHBORS,
            )
        )
    return results
