"""Fitting of calibrations by scikit-learn, and their reliability."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.calibration import Calibration, Measure, Method
from fletcher.runtime.errors import InputError

from ..packages import require_scikit_learn
from .results import Reliability, ReliabilityBin

__all__ = ["FEWEST_OF_A_KIND", "METHODS", "check_pairs", "cross_validated", "fit", "reliability"]

METHODS: tuple[Method, ...] = get_args(Method)

#: Fewest pairs that belong together, and fewest that do not: one in twenty is the finest probability.
FEWEST_OF_A_KIND = 20

#: Bins of the reliability diagram and of the expected calibration error.
BINS = 10

#: Parts of the cross-validation.
FOLDS = 5

Values = NDArray[np.float64]
Answers = NDArray[np.bool_]


def check_pairs(answers: Answers, threshold: float) -> None:
    """Raise an error if there are too few pairs of one kind.

    Args:
        answers: whether each pair belongs together, (n,).
        threshold: smallest score of such a pair.

    Raises:
        InputError: fewer than `FEWEST_OF_A_KIND` belong together, or do not.
    """
    positive = int(answers.sum())
    negative = len(answers) - positive
    if min(positive, negative) < FEWEST_OF_A_KIND:
        raise InputError(
            f"{positive} pairs have a score of at least {threshold:g} and {negative} a lower one; a calibration needs at "
            f"least {FEWEST_OF_A_KIND} of each: add pairs, or choose another score with --positive"
        )


def fit(values: Values, answers: Answers, method: Method, measure: Measure = "cosine", **facts: Any) -> Calibration:
    """Fit a function from similarities to probabilities.

    Args:
        values: similarity of each pair, float64, (n,).
        answers: whether each pair belongs together, (n,).
        method: kind of function: `IsotonicRegression`, or `LogisticRegression` without a penalty (Platt).
        measure: the kind of similarity.
        facts: other fields of `Calibration`.

    Raises:
        InputError: higher similarities do not mean that pairs belong together.
        MissingPackageError: scikit-learn is not installed.
    """
    require_scikit_learn("a calibration")
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    known = {"input_type": "raw", "error": 0.0, "variant": "", **facts}
    known |= {"measure": measure, "method": method, "pairs": len(values), "positive": float(answers.mean())}
    if method == "isotonic":
        curve = IsotonicRegression(y_min=0, y_max=1, increasing=True, out_of_bounds="clip")
        curve.fit(values, answers.astype(np.float64))
        points = tuple(curve.X_thresholds_.tolist()), tuple(curve.y_thresholds_.tolist())
        return Calibration(values=points[0], probabilities=points[1], **known)
    # C is the inverse of the penalty: infinite means without one. lbfgs needs values of about unit size.
    scale = float(values.std()) or 1.0
    line = LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8).fit(values[:, None] / scale, answers)
    slope, intercept = float(line.coef_[0, 0]) / scale, float(line.intercept_[0])
    if slope < 0:
        raise InputError(
            "pairs that belong together have lower similarities than the others: check which end of the scores means similar"
        )
    return Calibration(slope=slope, intercept=intercept, **known)


def cross_validated(values: Values, answers: Answers, method: Method) -> Values:
    """Return the probability of each pair by a function that was fitted to other pairs, float64, (n,).

    Args:
        values: similarity of each pair, float64, (n,).
        answers: whether each pair belongs together, (n,).
        method: kind of function.

    Raises:
        InputError: as of `fit`.
        MissingPackageError: scikit-learn is not installed.
    """
    require_scikit_learn("a calibration")
    from sklearn.model_selection import StratifiedKFold

    predicted = np.empty(len(values))
    for rest, part in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(values, answers):
        predicted[part] = fit(values[rest], answers[rest], method).apply(values[part])
    return predicted


def reliability(name: str, predicted: Values, answers: Answers) -> Reliability:
    """Compare predicted probabilities with answers, in ten bins of equal width.

    Args:
        name: name of the predictions.
        predicted: probabilities, float64, (n,).
        answers: whether each pair belongs together, (n,).
    """
    places = np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
    bins = [
        ReliabilityBin(
            pairs=int((places == place).sum()),
            predicted=float(predicted[places == place].mean()),
            observed=float(answers[places == place].mean()),
        )
        for place in np.unique(places)
    ]
    error = sum(one.pairs * abs(one.predicted - one.observed) for one in bins) / len(predicted)
    brier = float(np.square(predicted - answers).mean())
    return Reliability(name=name, error=error, brier=brier, bins=tuple(bins))
