"""`LabeledPairs`: pairs of texts with a similarity score given by people, and the agreement of vectors with the scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import InputError

from .metrics import cosines, spearman

__all__ = ["FEWEST_PAIRS", "LabeledPairs", "agreement", "read_pairs"]

#: Fewest pairs: of ten pairs, exchanging two neighbors already changes the rank correlation by 0.012.
FEWEST_PAIRS = 10


@dataclass(frozen=True, slots=True)
class LabeledPairs:
    """`LabeledPairs`: pairs of texts with a similarity score given by people.

    Attributes:
        scores: similarity scores, higher is more similar, float64, (n,).
        first: first text of each pair.
        second: second text of each pair.
    """

    scores: NDArray[np.float64]
    first: tuple[str, ...]
    second: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.first)


def read_pairs(path: str | Path) -> LabeledPairs:
    """Read lines of `score<TAB>text<TAB>text`. Empty lines are skipped.

    Raises:
        InputError: the file cannot be read or is not UTF-8, a line does not have three columns, a score is not a number,
            there are too few pairs, or all have the same score.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the pairs {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the pairs {path} are not UTF-8 (byte {error.start}): convert the file first") from error
    scores, first, second = [], [], []
    for number, line in enumerate(content.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split("\t")
        if len(parts) != 3:
            raise InputError(
                f"{path}, line {number} has {len(parts)} columns: write a score, a text and a text, separated by tabs"
            )
        scores.append(_score(path, number, parts[0]))
        first.append(parts[1])
        second.append(parts[2])
    if len(scores) < FEWEST_PAIRS:
        raise InputError(f"{path} has {len(scores)} pairs, and at least {FEWEST_PAIRS} are needed: add more pairs")
    if len(set(scores)) == 1:
        raise InputError(f"every pair of {path} has the score {scores[0]:g}: pairs of different scores are needed")
    return LabeledPairs(np.array(scores), tuple(first), tuple(second))


def _score(path: Path, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{path}, line {number}: the score {text!r} is not a finite number")
    return score


def agreement(pairs: LabeledPairs, first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return Spearman's rank correlation of the vectors' cosines with the scores. STS benchmarks report it times 100.

    Args:
        pairs: the pairs.
        first: vectors of the first texts, (n, dimension).
        second: vectors of the second texts, (n, dimension).
    """
    return spearman(cosines(first.astype(np.float64), second.astype(np.float64)), pairs.scores)
