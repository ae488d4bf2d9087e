"""Loss of shorter vectors (cut, PCA) and of smaller types (float16, int8, binary), and the advice that follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.measure.retrieval import Way, nearest, search
from fletcher.quantize.samples import evenly_spaced
from fletcher.runtime.tasks.postprocess import normalize

from ..results import Compressed
from .neighbors import NEIGHBORS
from .projection import Projection, fit_projection
from .retrieval import DEPTH, RetrievalTask, evaluate, run_of

__all__ = ["TYPES", "Judged", "advise", "describe_compression", "lengths_to_try", "neighbors_kept"]

Vectors = NDArray[np.float32]

#: Types that are measured. `int8` is compared by the cosine of its codes, as a vector database does; `binary` by the number
#: of equal bits, and its best candidates by int8 vectors on disk.
TYPES = ("float32", "float16", "int8", "binary")

#: Types whose nDCG is measured: float16 ranks as float32 does.
RANKED_TYPES = ("float32", "int8")
_INT8 = Way("int8", "cosine", "none")
_BINARY = Way("ubinary", "hamming", "int8")

#: Most texts whose neighbors are looked for.
MOST_QUERIES = 500

#: Lengths to try, besides those that the model was trained for.
LENGTHS = (1024, 768, 512, 384, 256, 192, 128, 64, 32)

#: Most lengths that are tried, the longest first.
MOST_LENGTHS = 6


@dataclass(frozen=True, slots=True)
class Judged:
    """`Judged`: documents and queries with judgments.

    Attributes:
        task: ids and judgments.
        documents: vectors of length 1, float32, (documents, dimension).
        queries: vectors of length 1, float32, (queries, dimension).
    """

    task: RetrievalTask
    documents: Vectors
    queries: Vectors


def lengths_to_try(dimension: int, trained: Sequence[int]) -> list[int]:
    """Return the lengths that the model was trained for, and common ones, longest first, all below the dimension."""
    common = [length for length in LENGTHS if length < dimension][:MOST_LENGTHS]
    return sorted({*(length for length in trained if length < dimension), *common}, reverse=True)


def describe_compression(
    unit: Vectors, trained: Sequence[int], *, layer_norm: bool = False, judged: Judged | None = None
) -> list[Compressed]:
    """Measure shorter vectors and smaller types by the ten nearest neighbors that they keep.

    Every second text fits PCA, and the others are measured: each of up to 500 of them is a query for all the others.
    Whitened PCA is measured only with judgments.

    Args:
        unit: vectors of length 1, (n, dimension), n above 4 times the number of neighbors.
        trained: lengths that the model was trained for.
        layer_norm: whether the model has a layer norm before a cut.
        judged: documents and queries with judgments, for nDCG.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    fitted, held = unit[::2], unit[1::2]
    own = evenly_spaced(len(held), MOST_QUERIES)
    truth = nearest(held[own], held, NEIGHBORS, own)
    results = []
    kinds = (False,) if judged is None else (False, True)  # whitening always keeps fewer neighbors, and may rank better
    for method, length, shorten in _ways(fitted, lengths_to_try(unit.shape[1], trained), layer_norm, kinds):
        shorter = shorten(held)
        pair = None if judged is None else (shorten(judged.documents), shorten(judged.queries))
        for kind in TYPES:
            if kind == "binary" and length % 8:
                continue
            rows = _search(shorter[own], shorter, kind, NEIGHBORS, own)
            ndcg = None
            if judged is not None and pair is not None and kind in RANKED_TYPES:
                ndcg = _ndcg(judged.task, *pair, kind)
            results.append(
                Compressed(
                    method=method,
                    dimension=length,
                    trained=method == "cut" and length in trained,
                    type=kind,
                    bytes=_bytes(kind, length),
                    overlap=_overlap(rows, truth),
                    ndcg=ndcg,
                )
            )
    return results


def neighbors_kept(original: Vectors, shorter: Vectors) -> dict[str, float]:
    """Return the share of the ten nearest neighbors that a search over other vectors returns, by type.

    Args:
        original: vectors of length 1, whose neighbors count, (n, dimension), n above the number of neighbors.
        shorter: vectors of length 1 of the same texts, (n, length).
    """
    own = evenly_spaced(len(original), MOST_QUERIES)
    truth = nearest(original[own], original, NEIGHBORS, own)
    return {
        kind: _overlap(_search(shorter[own], shorter, kind, NEIGHBORS, own), truth)
        for kind in TYPES
        if kind != "binary" or shorter.shape[1] % 8 == 0
    }


def advise(results: Sequence[Compressed], min_overlap: float) -> Compressed | None:
    """Return the smallest stored vector that keeps enough neighbors; of equally small ones, the one that keeps most.

    `binary` is not advised, because it also reads int8 vectors from a disk.
    """
    enough = [one for one in results if one.type != "binary" and one.overlap >= min_overlap]
    return min(enough, key=lambda one: (one.bytes, -one.overlap), default=None)


class _Cut:
    """`_Cut`: cut of vectors after their first elements, and scaling to length 1."""

    def __init__(self, length: int, layer_norm: bool) -> None:
        self._length, self._layer_norm = length, layer_norm

    def __call__(self, vectors: Vectors) -> Vectors:
        if self._layer_norm:
            # The deviation only scales the vector, which the normalization below does again.
            vectors = vectors - vectors.mean(axis=1, keepdims=True)
        return normalize(vectors[:, : self._length])


def _ways(
    fitted: Vectors, lengths: Sequence[int], layer_norm: bool, whitening: Sequence[bool]
) -> Iterator[tuple[str, int, _Cut | Projection]]:
    """Yield method, length and function of each way to shorten vectors."""
    dimension = fitted.shape[1]
    yield "full", dimension, _Cut(dimension, False)
    for length in lengths:
        yield "cut", length, _Cut(length, layer_norm)
    possible = [length for length in lengths if length < len(fitted)]
    if possible:
        for whiten in whitening:
            whole = fit_projection(fitted, possible[0], whiten=whiten)
            for length in possible:
                yield "pca-whitened" if whiten else "pca", length, whole.first(length)


def _search(
    queries: Vectors, documents: Vectors, kind: str, count: int, own: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return the rows of the documents that a search over stored vectors finds, best first, (queries, count)."""
    if kind == "float32":
        return nearest(queries, documents, count, own)
    if kind == "float16":
        stored = documents.astype(np.float16).astype(np.float32)
        return nearest(queries.astype(np.float16).astype(np.float32), stored, count, own)
    return search(queries, documents, _INT8 if kind == "int8" else _BINARY, count=count, own=own)


def _bytes(kind: str, length: int) -> int:
    return {"float32": 4 * length, "float16": 2 * length, "int8": length, "binary": length // 8}[kind]


def _overlap(rows: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Return the mean share of the true neighbors that were found."""
    common = [len(set(ours) & set(theirs)) for ours, theirs in zip(rows.tolist(), truth.tolist(), strict=True)]
    return float(np.mean(common) / truth.shape[1])


def _ndcg(task: RetrievalTask, documents: Vectors, queries: Vectors, kind: str) -> float:
    rows = _search(queries, documents, kind, min(DEPTH, len(documents)), None)
    # The order counts: the rank is the score.
    scores = np.broadcast_to(-np.arange(rows.shape[1], dtype=np.float32), rows.shape)
    figures: dict[str, float] = evaluate(task.judgments, run_of(task, rows, scores))
    return figures["ndcg_cut_10"]
