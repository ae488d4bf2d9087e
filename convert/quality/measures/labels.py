"""Separability of labeled groups of texts: silhouette, linear probe, nearest neighbors. scikit-learn computes all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.samples import evenly_spaced
from fletcher.runtime.errors import InputError

from ..packages import require_scikit_learn
from ..results import LabelShare, Separability
from .geometry import alignment

__all__ = ["FEWEST_PER_LABEL", "FOLDS", "describe_labels", "usable_rows"]

#: Parts of the cross-validation, and so the fewest texts of a label: each part then has one.
FOLDS = 5
FEWEST_PER_LABEL = FOLDS

#: Most texts: the silhouette compares all pairs, and the probe is fitted five times.
MOST_TEXTS = 2500

#: Neighbors that vote.
VOTES = 10

#: Pairs of texts with the same label, for alignment.
PAIRS = 20_000


def usable_rows(labels: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the rows of texts whose label has at least `FEWEST_PER_LABEL` texts, int64, evenly thinned to `MOST_TEXTS`.

    Args:
        labels: label of each text; None or an empty one is unlabeled.

    Raises:
        InputError: fewer than two labels have enough texts.
    """
    names, counts = np.unique([label for label in labels if label], return_counts=True)
    kept = set(names[counts >= FEWEST_PER_LABEL].tolist())
    if len(kept) < 2:
        found = "no label" if not len(names) else "one label" if len(names) == 1 else f"{len(names)} labels"
        raise InputError(
            f"the texts have {found}, {len(kept)} of them with at least {FEWEST_PER_LABEL} different texts: separability "
            "needs two such labels. Add texts, or leave the labels out"
        )
    rows = np.array([row for row, label in enumerate(labels) if label in kept], np.int64)
    if len(rows) <= MOST_TEXTS:
        return rows
    # Every label keeps its share, and the folds their members.
    order = rows[np.argsort([labels[row] for row in rows], kind="stable")]
    return np.sort(order[evenly_spaced(len(order), MOST_TEXTS)])


def describe_labels(unit: NDArray[np.float32], labels: Sequence[str | None]) -> Separability:
    """Measure how well labeled groups are separated.

    Args:
        unit: vectors of length 1, (n, dimension).
        labels: label of each text; None or an empty one is unlabeled.

    Raises:
        InputError: fewer than two labels have enough texts.
        MissingPackageError: scikit-learn is not installed.
    """
    require_scikit_learn("separability of labels")
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_samples
    from sklearn.model_selection import StratifiedKFold, cross_validate
    from sklearn.neighbors import KNeighborsClassifier

    rows = usable_rows(labels)
    rows = _with_enough(rows, labels)
    vectors, names = unit[rows], np.array([labels[row] for row in rows])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)

    def judge(model: Any) -> tuple[float, float]:
        scores = cross_validate(model, vectors, names, cv=folds, scoring=("accuracy", "f1_macro"))
        return float(scores["test_accuracy"].mean()), float(scores["test_f1_macro"].mean())

    probe, probe_f1 = judge(LogisticRegression(max_iter=1000))
    # KNeighborsClassifier needs as many training texts as voters.
    voters = min(VOTES, len(rows) - -(-len(rows) // FOLDS))
    votes, votes_f1 = judge(KNeighborsClassifier(n_neighbors=voters, metric="cosine"))
    silhouettes = silhouette_samples(vectors, names, metric="cosine")
    kinds, counts = np.unique(names, return_counts=True)
    first, second = _same_label_pairs(names)
    return Separability(
        texts=len(rows),
        left_out=len(labels) - len(rows),
        labels=tuple(
            LabelShare(label=str(kind), texts=int(count), silhouette=float(silhouettes[names == kind].mean()))
            for kind, count in zip(kinds, counts, strict=True)
        ),
        silhouette=float(silhouettes.mean()),
        probe_accuracy=probe,
        probe_f1=probe_f1,
        neighbors=voters,
        neighbors_accuracy=votes,
        neighbors_f1=votes_f1,
        majority=float(counts.max() / len(rows)),
        alignment=alignment(vectors[first], vectors[second]),
    )


def _with_enough(rows: NDArray[np.int64], labels: Sequence[str | None]) -> NDArray[np.int64]:
    """Return the rows whose label still has enough texts after thinning."""
    names, inverse, counts = np.unique([labels[row] for row in rows], return_inverse=True, return_counts=True)
    if (counts >= FEWEST_PER_LABEL).sum() < 2:
        raise InputError(
            f"the texts have {len(names)} labels, most of them rare: separability needs two labels with many texts each"
        )
    return rows[counts[inverse] >= FEWEST_PER_LABEL]


def _same_label_pairs(names: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return random pairs of different texts of one label; each text is the first of about equally many pairs."""
    random = np.random.default_rng(0)
    members = {name: np.flatnonzero(names == name) for name in np.unique(names)}
    firsts, seconds = [], []
    for _ in range(max(1, PAIRS // len(names))):
        for group in members.values():
            # The next one of a random circle is another text with the same label.
            circle = random.permutation(group)
            firsts.append(circle)
            seconds.append(np.roll(circle, -1))
    return np.concatenate(firsts), np.concatenate(seconds)
