"""Labeled pairs: format of their files, and scipy's rank correlation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fletcher.quantize.measure.pairs import agreement, read_pairs
from fletcher.runtime.errors import InputError

stats = pytest.importorskip("scipy.stats")


def lines(count: int) -> list[str]:
    return [f"{index / 2}\tleft {index}\tright {index}" for index in range(count)]


def test_pairs_come_in_order_with_their_scores(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("\ufeff" + "\r\n".join(lines(11)) + "\n\n", encoding="utf-8")
    pairs = read_pairs(file)
    assert len(pairs) == 11 and pairs.first[3] == "left 3" and pairs.second[10] == "right 10"
    np.testing.assert_array_equal(pairs.scores, np.arange(11) / 2)


def test_agreement_is_scipys_rank_correlation_of_cosines(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(lines(40)))
    pairs = read_pairs(file)
    rng = np.random.default_rng(3)
    first = rng.normal(size=(40, 6)).astype(np.float32)
    second = (first * np.linspace(0, 1, 40)[:, None] + rng.normal(size=(40, 6))).astype(np.float32)
    angles = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(first, second, strict=True)]
    expected = stats.spearmanr(angles, np.arange(40)).statistic
    assert 0.1 < expected < 0.95
    assert agreement(pairs, first, second) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join([*lines(10), "0.5\tonly one"]), "line 11 has 2 columns"),
        ("\n".join([*lines(10), "high\ta\tb"]), "line 11: the score 'high'"),
        ("\n".join([*lines(10), "nan\ta\tb"]), "not a finite number"),
        ("\n".join(lines(9)), "has 9 pairs"),
        ("", "has 0 pairs"),
        ("\n".join(["1\ta\tb"] * 12), "every pair of .* has the score 1"),
    ],
)
def test_files_without_pairs_are_rejected(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        read_pairs(file)


def test_files_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "missing.tsv")
    (tmp_path / "latin").write_bytes("1\tgrün\trot".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_pairs(tmp_path / "latin")
