"""Figures of held-out items, one value for each item: nDCG, similarity of pairs, and nearness to a teacher's vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.measure.metrics import NEIGHBORS
from fletcher.quantize.measure.retrieval import nearest
from fletcher.runtime.tasks.postprocess import normalize

from ...quality.measures.retrieval import RetrievalTask, evaluate_each, run_of
from .bootstrap import Sample

__all__ = [
    "Embed",
    "RankingData",
    "fidelity_samples",
    "order_sample",
    "pair_sample",
    "ranking_sample",
    "remembered",
    "shortened",
]

Vectors = NDArray[np.float32]

#: Function that returns vectors of length 1 of texts with an input type, `query`, `document` or `raw`.
Embed = Callable[[Sequence[str], str], Vectors]

#: Documents of a run: the metric looks at ten.
DEPTH = 10

#: Differences of a reranker's scores below which two texts have no order.
TIE = 1e-6


@dataclass(frozen=True, slots=True)
class RankingData:
    """`RankingData`: queries, documents, and the documents that belong to each query.

    Attributes:
        queries: the queries, which all differ.
        documents: the documents, which all differ.
        relevant: rows of the documents that belong to each query.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[tuple[int, ...], ...]


def remembered(embed: Embed) -> Embed:
    """Return an embedding function that computes the vectors of a list of texts once."""
    known: dict[tuple[tuple[str, ...], str], Vectors] = {}

    def recalled(texts: Sequence[str], input_type: str) -> Vectors:
        key = (tuple(texts), input_type)
        if key not in known:
            known[key] = embed(texts, input_type)
        return known[key]

    return recalled


def shortened(embed: Embed, length: int) -> Embed:
    """Return an embedding function whose vectors are the first elements of longer ones, scaled to length 1."""

    def cut(texts: Sequence[str], input_type: str) -> Vectors:
        return normalize(embed(texts, input_type)[:, :length])

    return cut


def ranking_sample(data: RankingData, embed: Embed) -> Sample:
    """Return the nDCG@10 of each query.

    Args:
        data: queries and documents.
        embed: the model.
    """
    queries, documents = embed(data.queries, "query"), embed(data.documents, "document")
    rows = nearest(queries, documents, min(DEPTH, len(documents)))
    scores = np.einsum("qd,qkd->qk", queries, documents[rows])
    names = [str(row) for row in range(len(documents))]
    ids = [f"q{row}" for row in range(len(queries))]
    judgments = {query: {names[row]: 1 for row in found} for query, found in zip(ids, data.relevant, strict=True)}
    each = evaluate_each(judgments, run_of(RetrievalTask(names, ids, judgments), rows, scores))
    return Sample(np.array([each[query] for query in ids]))


def pair_sample(first: Sequence[str], second: Sequence[str], scores: NDArray[np.float64], embed: Embed) -> Sample:
    """Return the cosine of each pair, with the scores to correlate it with."""
    one, other = embed(first, "raw"), embed(second, "raw")
    return Sample(np.einsum("nd,nd->n", one.astype(np.float64), other.astype(np.float64)), scores)


def fidelity_samples(vectors: Vectors, teacher: Vectors) -> dict[str, Sample]:
    """Return each text's share of the teacher's ten neighbors, and its cosine with the teacher if the lengths are equal.

    Args:
        vectors: vectors of length 1, (n, dimension).
        teacher: vectors of length 1 by the teacher, (n, teacher dimension).
    """
    own = np.arange(len(teacher))
    count = min(NEIGHBORS, len(own) - 1)
    found, expected = nearest(vectors, vectors, count, own), nearest(teacher, teacher, count, own)
    shared = [len(set(one) & set(other)) / count for one, other in zip(found.tolist(), expected.tolist(), strict=True)]
    samples = {"teacher's ten neighbors": Sample(np.array(shared))}
    if vectors.shape == teacher.shape:
        cosines = np.einsum("nd,nd->n", vectors.astype(np.float64), teacher.astype(np.float64))
        samples["cosine with the teacher"] = Sample(cosines)
    return samples


def order_sample(
    queries: Sequence[str], texts: Sequence[Sequence[str]], scores: Sequence[NDArray[np.float64]], embed: Embed
) -> Sample:
    """Return the share of each query's pairs of texts that have the order of a reranker's scores.

    Args:
        queries: the queries.
        texts: texts of each query, at least two with different scores.
        scores: scores of these texts, (texts,).
        embed: the model.
    """
    asked = embed(queries, "query")
    flat = [text for found in texts for text in found]
    vectors = np.split(embed(flat, "document"), np.cumsum([len(found) for found in texts])[:-1])
    shares = []
    for query, documents, judged in zip(asked, vectors, scores, strict=True):
        cosines = documents @ query
        above = judged[:, None] > judged[None, :] + TIE
        shares.append(float((cosines[:, None] > cosines[None, :])[above].mean()))
    return Sample(np.array(shares))
