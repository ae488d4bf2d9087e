"""What a search over quantized vectors finds of what float32 finds, with and without rescoring."""

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

#: How a search's candidates are put into their final order: not again; by the float32 query against the stored codes; against
#: the int8 codes, kept on disk beside the bits; or against the float32 vectors, kept on disk.
Rescoring = Literal["none", "codes", "int8", "float32"]

#: Candidates that are rescored, for each result wanted; sentence-transformers' `rescore_multiplier` is 2.
OVERSAMPLE = 4

#: Queries whose similarities are in memory at once.
CHUNK = 256


class StorageResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A way to store and search, and what it finds.

    Attributes:
        code: `int8` or `binary`.
        rescoring: see `Rescoring`.
        bytes: of a stored vector in the index, without what rescoring reads from disk.
        smaller: how many times smaller than float32 that is.
        overlap: share of float32's ten nearest that it finds, mean over the queries.
    """

    code: CodeType
    rescoring: Rescoring
    bytes: int
    smaller: float
    overlap: float


def nearest(
    queries: Vectors, documents: Vectors, count: int, own: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The documents of the largest dot products, best first, int64, (queries, count).

    Args:
        queries: (m, dimension).
        documents: (n, dimension).
        count: how many, at most n.
        own: rows that a query must not find, one a query: itself.
    """
    found = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), CHUNK):
        rows = slice(start, start + CHUNK)
        scores = queries[rows] @ documents.T
        if own is not None:
            scores[np.arange(len(scores)), own[rows]] = -np.inf
        part = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(part, order, axis=1)
    return found


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
    """Searches documents that are stored as codes, best first, int64, (queries, count).

    Without rescoring both sides are codes: the dot product of what int8 codes decode to, or the bits that agree (Hamming).

    Args:
        queries: float32, (m, dimension).
        documents: float32, (n, dimension); they are encoded here.
        calibration: of vectors like these.
        code: how they are stored.
        rescoring: how candidates are put into order.
        count: results of each query.
        own: rows that a query must not find, one a query.
    """
    codes, asked = encode(documents, calibration, code), encode(queries, calibration, code)
    stored = decode(codes, calibration)
    wanted = count if rescoring == "none" else min(count * OVERSAMPLE, len(documents) - (own is not None))
    if code == "binary":
        # Bits that agree less bits that do not: a dot product of signs.
        sides = [
            np.unpackbits(side.view(np.uint8), axis=1, count=calibration.dimension).astype(np.float32) * 2 - 1
            for side in (asked, codes)
        ]
        candidates = nearest(sides[0], sides[1], wanted, own)
    else:
        candidates = nearest(decode(asked, calibration), stored, wanted, own)
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
    """Every way to store and rescore: each vector is a query for all the others.

    Args:
        vectors: float32, (n, dimension), n above 10; not the ones that the calibration was learned from.
        calibration: the ranges.

    Raises:
        InputError: too few vectors to have ten neighbors.
    """
    if len(vectors) <= NEIGHBORS:
        raise InputError(f"{len(vectors)} vectors have no {NEIGHBORS} neighbors each: give more texts")
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
        found = search(unit, unit, calibration, code, rescoring, own=own)
        common = [len(set(ours) & set(theirs)) for ours, theirs in zip(found.tolist(), truth.tolist(), strict=True)]
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
