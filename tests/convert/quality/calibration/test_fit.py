"""Calibrations against scikit-learn, and the expected calibration error in a case worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from fletcher.convert.quality.calibration.fit import check_pairs, cross_validated, fit, reliability
from fletcher.runtime.errors import InputError


@pytest.fixture(scope="module")
def pairs() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return similarities and answers that belong together with the probability 1 / (1 + exp(-(8 x - 4)))."""
    random = np.random.default_rng(6)
    values = random.uniform(-0.2, 1, 2000)
    return values, random.random(2000) < 1 / (1 + np.exp(-(8 * values - 4)))


def test_isotonic_is_that_of_scikit_learn(pairs: tuple[NDArray[np.float64], NDArray[np.bool_]]) -> None:
    values, answers = pairs
    expected = IsotonicRegression(out_of_bounds="clip").fit(values, answers.astype(float))
    asked = np.linspace(-1, 1.2, 500)
    assert fit(values, answers, "isotonic").apply(asked) == pytest.approx(expected.predict(asked), abs=1e-12)


def test_logistic_is_that_of_scikit_learn_and_finds_the_true_function(
    pairs: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    values, answers = pairs
    expected = LogisticRegression(C=1e9, max_iter=1000, tol=1e-10).fit(values[:, None], answers)
    found = fit(values, answers, "logistic")
    assert found.apply(values) == pytest.approx(expected.predict_proba(values[:, None])[:, 1], abs=1e-4)
    assert (found.slope, found.intercept) == pytest.approx((8, -4), rel=0.15)
    assert found.positive == answers.mean()


def test_predictions_are_of_functions_that_were_fitted_to_other_pairs(
    pairs: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    values, answers = pairs
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(C=1e9, max_iter=1000, tol=1e-10)
    expected = cross_val_predict(model, values[:, None], answers, cv=folds, method="predict_proba")[:, 1]
    found = cross_validated(values, answers, "logistic")
    assert found == pytest.approx(expected, abs=1e-4)
    shown = reliability("logistic", found, answers)
    assert shown.brier == pytest.approx(brier_score_loss(answers, found))
    observed, predicted = calibration_curve(answers, found, n_bins=10)
    assert [one.observed for one in shown.bins] == pytest.approx(observed.tolist())
    assert [one.predicted for one in shown.bins] == pytest.approx(predicted.tolist())
    assert shown.error < 0.03


def test_expected_calibration_error_worked_out_by_hand() -> None:
    # Bin .2 to .3: mean .25, half of two belong together. Bin .9 to 1: mean .95, both belong together.
    predicted = np.array([0.24, 0.26, 0.9, 1.0])
    found = reliability("x", predicted, np.array([True, False, True, True]))
    assert found.error == pytest.approx((2 * abs(0.25 - 0.5) + 2 * abs(0.95 - 1)) / 4)
    assert found.brier == pytest.approx((0.76**2 + 0.26**2 + 0.1**2 + 0) / 4)


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
def test_probabilities_do_not_fall(method: str, pairs: tuple[NDArray[np.float64], NDArray[np.bool_]]) -> None:
    found = fit(*pairs, method)  # type: ignore[arg-type]
    probabilities = found.apply(np.linspace(-1, 1, 1000))
    assert (np.diff(probabilities) >= 0).all()
    assert probabilities.min() >= 0 and probabilities.max() <= 1


def test_pairs_whose_order_is_reversed_are_refused() -> None:
    values = np.linspace(0, 1, 100)
    with pytest.raises(InputError, match="lower similarities"):
        fit(values, values < 0.5, "logistic")


def test_one_kind_of_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="100 pairs have a score of at least 1 and 0 a lower one"):
        check_pairs(np.ones(100, bool), 1.0)
