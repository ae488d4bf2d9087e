"""Separability of labels against scikit-learn's own functions, and labels that cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples, silhouette_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from fletcher.convert.quality.measures.labels import describe_labels, usable_rows
from fletcher.runtime.errors import InputError


def test_figures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    labels = [("sea", "land", "air")[row % 3] for row in range(240)]
    centers = {"sea": 0, "land": 1, "air": 2}
    vectors = np.eye(6)[[centers[label] for label in labels]] + random.standard_normal((240, 6)) * 0.6
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    found = describe_labels(unit, labels)

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    probe = LogisticRegression(max_iter=1000)
    votes = KNeighborsClassifier(10, metric="cosine")
    assert found.silhouette == pytest.approx(silhouette_score(unit, labels, metric="cosine"))
    assert found.probe_accuracy == pytest.approx(cross_val_score(probe, unit, labels, cv=folds).mean())
    assert found.probe_f1 == pytest.approx(cross_val_score(probe, unit, labels, cv=folds, scoring="f1_macro").mean())
    assert found.neighbors_accuracy == pytest.approx(cross_val_score(votes, unit, labels, cv=folds).mean())
    assert found.neighbors_f1 == pytest.approx(
        cross_val_score(votes, unit, labels, cv=folds, scoring="f1_macro").mean()
    )
    each = silhouette_samples(unit, labels, metric="cosine")
    expected = [each[np.array(labels) == one.label].mean() for one in found.labels]
    assert [one.silhouette for one in found.labels] == pytest.approx(expected)
    # Of all pairs of one label; the report has a sample of them.
    same = np.equal.outer(labels, labels) & ~np.eye(len(labels), dtype=bool)
    assert found.alignment == pytest.approx(euclidean_distances(unit, squared=True)[same].mean(), rel=0.01)
    assert found.majority == pytest.approx(1 / 3)
    assert [(one.label, one.texts) for one in found.labels] == [("air", 80), ("land", 80), ("sea", 80)]


def test_alignment_of_labels_that_are_points_is_zero() -> None:
    unit = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    found = describe_labels(unit, ["a"] * 10 + ["b"] * 10)
    assert found.alignment == 0
    assert found.silhouette == pytest.approx(1.0)


def test_rare_labels_and_unlabeled_texts_are_left_out() -> None:
    labels = ["a"] * 6 + ["b"] * 5 + ["rare"] * 4 + [None, ""]
    assert usable_rows(labels).tolist() == list(range(11))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 20, "one label"),
        ([None] * 20, "no label"),
        (["a"] * 18 + ["b", "c"], "3 labels, 1 of them"),
        ([str(row) for row in range(20)], "20 labels, 0 of them"),
    ],
)
def test_labels_that_cannot_be_separated_are_refused(labels: list[str | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        usable_rows(labels)


def test_many_texts_are_thinned_and_every_label_keeps_its_share() -> None:
    labels = ["a", "b", "b", "b"] * 2000
    rows = usable_rows(labels)
    assert len(rows) == 2500
    assert np.mean([labels[row] == "a" for row in rows]) == pytest.approx(0.25, abs=0.001)
