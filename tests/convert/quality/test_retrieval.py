"""Retrieval metrics in cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fletcher.convert.quality.measures.retrieval import RetrievalTask, describe_retrieval, evaluate


def test_metrics_of_a_ranking_that_is_worked_out_by_hand() -> None:
    judgments = {"q": {"a": 2, "b": 1, "c": 0, "absent": 1}}
    run = {"q": {"c": 0.9, "a": 0.8, "x": 0.7, "b": 0.6}}
    figures = evaluate(judgments, run)
    gain = 2 / math.log2(3) + 1 / math.log2(5)
    best = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert figures["ndcg_cut_10"] == pytest.approx(gain / best)
    assert figures["recall_10"] == pytest.approx(2 / 3)
    assert figures["mrr_10"] == pytest.approx(1 / 2)


def test_a_document_after_the_tenth_does_not_count_for_mrr_and_ndcg() -> None:
    run = {"q": {f"d{row}": 1 - row / 100 for row in range(20)}}
    figures = evaluate({"q": {"d10": 1}}, run)
    assert (figures["mrr_10"], figures["ndcg_cut_10"], figures["recall_10"]) == (0, 0, 0)
    assert figures["recall_100"] == 1


def test_queries_without_judgments_are_not_in_the_mean() -> None:
    figures = evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}, "other": {"a": 1.0}})
    assert figures["ndcg_cut_10"] == 1


def test_vectors_are_ranked_by_cosine() -> None:
    documents = np.eye(3, dtype=np.float32)
    queries = np.array([[0.8, 0.6, 0], [0, 0.6, 0.8]], np.float32)
    task = RetrievalTask(("a", "b", "c"), ("q", "r"), {"q": {"a": 1, "missing": 1}, "r": {"b": 1}})
    found = describe_retrieval(task, documents, queries)
    assert found.mrr == pytest.approx((1 + 1 / 2) / 2)
    assert found.recall_10 == pytest.approx((1 / 2 + 1) / 2)
    assert (found.judgments, found.missing) == (3, 1)
    # |q - a|² = 2 - 2 · 0.8, |r - b|² = 2 - 2 · 0.6
    assert found.alignment == pytest.approx((0.4 + 0.8) / 2, abs=1e-6)
