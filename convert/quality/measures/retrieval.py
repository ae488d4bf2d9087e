"""Retrieval metrics of queries with judgments. trec_eval itself computes them, through pytrec_eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.measure.retrieval import nearest

from ..packages import require_pytrec_eval
from ..results import Retrieval
from .geometry import alignment

__all__ = ["RetrievalTask", "describe_retrieval", "evaluate", "evaluate_each", "run_of"]

#: Documents of a run: the recall of the first hundred needs so many.
DEPTH = 100


@dataclass(frozen=True, slots=True)
class RetrievalTask:
    """`RetrievalTask`: documents, queries and judgments by id.

    Attributes:
        documents: ids of the documents, in the order of their vectors.
        queries: ids of the queries, in the order of their vectors.
        judgments: relevance by document id, by query id.
    """

    documents: Sequence[str]
    queries: Sequence[str]
    judgments: Mapping[str, Mapping[str, int]]


def describe_retrieval(task: RetrievalTask, documents: NDArray[np.float32], queries: NDArray[np.float32]) -> Retrieval:
    """Search all documents by each query, and judge the results.

    Args:
        task: ids and judgments.
        documents: vectors of length 1, (documents, dimension).
        queries: vectors of length 1, (queries, dimension).

    Raises:
        MissingPackageError: pytrec_eval is not installed.
    """
    count = min(DEPTH, len(documents))
    rows = nearest(queries, documents, count)
    scores = np.einsum("qd,qkd->qk", queries, documents[rows])
    figures = evaluate(task.judgments, run_of(task, rows, scores))
    place = {document: row for row, document in enumerate(task.documents)}
    relevant = [
        (row, place.get(document, -1))
        for row, query in enumerate(task.queries)
        for document, grade in task.judgments.get(query, {}).items()
        if grade > 0
    ]
    found = np.array([pair for pair in relevant if pair[1] >= 0], np.int64).reshape(-1, 2)
    return Retrieval(
        queries=len(task.queries),
        documents=len(task.documents),
        judgments=len(relevant),
        missing=len(relevant) - len(found),
        ndcg=figures["ndcg_cut_10"],
        recall_10=figures["recall_10"],
        recall_100=figures["recall_100"],
        mrr=figures["mrr_10"],
        alignment=alignment(queries[found[:, 0]], documents[found[:, 1]]),
    )


def run_of(task: RetrievalTask, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, dict[str, float]]:
    """Return the results of a search as trec_eval takes them: scores by document id, by query id.

    Args:
        task: ids.
        rows: rows of the documents that each query found, (queries, k).
        scores: their scores, (queries, k).
    """
    return {
        query: {task.documents[row]: score for row, score in zip(found, values, strict=True)}
        for query, found, values in zip(task.queries, rows.tolist(), scores.tolist(), strict=True)
    }


def evaluate(judgments: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the means of trec_eval's metrics over the queries of a run that have a judgment.

    Args:
        judgments: relevance by document id, by query id.
        run: scores by document id, by query id.

    Returns:
        `ndcg_cut_10`, `recall_10`, `recall_100`, and `mrr_10`, trec_eval's `recip_rank` of the first ten documents.

    Raises:
        MissingPackageError: pytrec_eval is not installed.
    """
    require_pytrec_eval()
    import pytrec_eval

    judged = {query: dict(judgments[query]) for query in run if judgments.get(query)}
    full = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.10,100"})
    first = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"})
    ten = {
        query: dict(sorted(found.items(), key=lambda item: (item[1], item[0]), reverse=True)[:10])
        for query, found in run.items()
    }
    results = list(full.evaluate(dict(run)).values())
    ranks = list(first.evaluate(ten).values())
    figures = {
        name: float(np.mean([one[name] for one in results])) for name in ("ndcg_cut_10", "recall_10", "recall_100")
    }
    return figures | {"mrr_10": float(np.mean([one["recip_rank"] for one in ranks]))}


def evaluate_each(
    judgments: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Return trec_eval's `ndcg_cut_10` of each query.

    Args:
        judgments: relevance by document id, by query id; every query of the run has a judgment.
        run: scores by document id, by query id.

    Raises:
        MissingPackageError: pytrec_eval is not installed.
    """
    require_pytrec_eval()
    import pytrec_eval

    judged = {query: dict(judgments[query]) for query in run}
    results = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(dict(run))
    return {query: float(found["ndcg_cut_10"]) for query, found in results.items()}
