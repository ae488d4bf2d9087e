"""Comparison of two artifacts' vectors: equal ones, and one text that moves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from fletcher.convert.quality.measures.comparison import compare_artifacts
from fletcher.convert.quality.measures.neighbors import find_neighbors

NAMES = ("first", "second")


def circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_rotated_space_has_the_same_neighbors() -> None:
    angles = np.random.default_rng(5).random(60) * 6
    first, second = circle(angles), circle(angles + 1)
    texts = [str(row) for row in range(60)]
    found = compare_artifacts((first, find_neighbors(first)), (second, find_neighbors(second)), NAMES, texts)
    assert found.overlap == pytest.approx(1.0, abs=0.01)
    assert found.spearman == pytest.approx(1.0, abs=1e-4)
    assert "first and second agree on" in found.sentence


def test_the_text_that_moved_comes_first() -> None:
    angles = np.arange(60) * 0.05
    moved = angles.copy()
    moved[3] = angles[50] + 0.001
    first, second = circle(angles), circle(moved)
    texts = [f"text {row}" for row in range(60)]
    found = compare_artifacts((first, find_neighbors(first)), (second, find_neighbors(second)), NAMES, texts)
    top = found.moved[0]
    assert (top.text, top.overlap, top.other_nearest) == ("text 3", 0.0, "text 50")
    assert top.nearest in ("text 2", "text 4")
    others = np.delete(np.arange(60), 3)
    expected = spearmanr(first[others] @ first[3], second[others] @ second[3]).statistic
    assert top.correlation == pytest.approx(expected, abs=1e-3)
    upper = np.triu_indices(60, 1)
    expected = spearmanr((first @ first.T)[upper], (second @ second.T)[upper]).statistic
    assert found.spearman == pytest.approx(expected, abs=1e-4)
