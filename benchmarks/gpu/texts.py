"""Texts of the GPU benchmarks: all of them differ, so a vector is never reused for another text."""

from __future__ import annotations

import numpy as np

from fletcher import Encoder
from fletcher.runtime.corpora import corpus

__all__ = ["ragged_texts", "texts_of"]

#: Mean and standard deviation of the logarithm of a text's number of words: about 61 tokens on average with a long tail.
LOG_MEAN, LOG_SPREAD = 3.14, 0.95


def ragged_texts(count: int, seed: int = 0) -> list[str]:
    """Return numbered runs of words of the standard library's docstrings, in arrival order."""
    words = " ".join(corpus("docstrings", 10_000)).split()
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(LOG_MEAN, LOG_SPREAD, count), 2, 180).astype(int)
    starts = rng.integers(0, len(words) - 200, count)
    return [
        f"{number} {' '.join(words[start : start + length])}"
        for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
    ]


def texts_of(count: int, tokens: int, encoder: Encoder) -> list[str]:
    """Return texts with exactly that many tokens, special tokens included, made of words of one token."""
    words = [
        f" {word}" for word in dict.fromkeys(" ".join(corpus("sentences", 3000)).lower().split()) if word.isalpha()
    ]
    lengths = encoder.tokenize(words).lengths
    single = [word for word, length in zip(words, lengths.tolist(), strict=True) if length == 3]
    picks = np.random.default_rng(0).integers(0, len(single), (count, tokens - 2))
    return ["".join(single[pick] for pick in row) for row in picks.tolist()]
