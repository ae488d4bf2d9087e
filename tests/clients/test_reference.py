"""The comparison of calls with the reference: it accepts right results and names every kind of fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .driver import Made
from .reference import TEXTS, TOLERANCE, Reference, fault

VECTORS = np.eye(len(TEXTS), 8, dtype=np.float32)
SCORES = np.array([0.5, 0.25, 0.75, 1.0])
REFERENCE = Reference({"vectors": VECTORS, "query": -VECTORS}, SCORES)
RANKING = [(3, 1.0), (2, 0.75), (0, 0.5), (1, 0.25)]


def judged(expected: str, value: Any = None, error: str | None = None) -> str | None:
    return fault(Made(name="call", expected=expected, value=value, error=error), REFERENCE)


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        ("vectors", VECTORS.tolist()),
        ("vectors", (VECTORS + TOLERANCE / 2).tolist()),
        ("query", (-VECTORS).tolist()),
        ("vectors of one text", VECTORS[:1].tolist()),
        ("ranking", RANKING),
        ("ranking of 2", RANKING[:2]),
        ("similarities", [0.0, 0.0, 0.0]),
        ("most similar 2", [(0, 0.0), (1, 0.0)]),
        ("names", ["minilm", "prompted", "reranker", "another"]),
        ("nothing", []),
    ],
)
def test_right_results_have_no_fault(expected: str, value: Any) -> None:
    assert judged(expected, value) is None


@pytest.mark.parametrize(
    ("expected", "value", "words"),
    [
        ("vectors", (VECTORS + 2 * TOLERANCE).tolist(), "the largest difference from the reference is 2.0e-05"),
        ("vectors", VECTORS[:1].tolist(), "(1, 8), not (4, 8)"),
        ("vectors", np.full_like(VECTORS, np.nan).tolist(), "nan"),
        ("vectors", "text", "not numeric"),
        ("query", VECTORS.tolist(), "2.0e+00"),
        ("ranking", RANKING[::-1], "the order is [1, 0, 2, 3], not [3, 2, 0, 1]"),
        ("ranking", RANKING[:2], "the order is [3, 2], not"),
        ("ranking", [(index, score + 0.1) for index, score in RANKING], "1.0e-01"),
        ("names", ["minilm", "reranker"], "prompted not in"),
        ("nothing", [[0.5]], "the result is [[0.5]], not empty"),
    ],
)
def test_wrong_results_have_one(expected: str, value: Any, words: str) -> None:
    assert words in str(judged(expected, value))


def test_errors_are_faults_unless_they_are_expected() -> None:
    assert judged("vectors", error="400\n no") == "400 no"
    assert judged("refused setting=False", error="write setting=False") is None
    assert judged("refused setting=False", error="another") == "the message lacks “setting=False”: another"
    assert judged("refused setting=False", VECTORS.tolist()) == "the call was answered; it must be refused"
