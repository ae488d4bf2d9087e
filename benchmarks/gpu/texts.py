"""Texts for the GPU benchmarks: many, all different, so that none is computed once for several."""

from __future__ import annotations

import numpy as np

from fletcher import Encoder
from fletcher.runtime.corpora import corpus

__all__ = ["ragged_texts", "texts_of"]

#: Mean and spread of the logarithm of a text's words: a mean of about 61 tokens with a long tail, as documentation has.
LOG_MEAN, LOG_SPREAD = 3.14, 0.95


def ragged_texts(count: int, seed: int = 0) -> list[str]:
    """Runs of words of the standard library's docstrings, in arrival order, each behind its number."""
    words = " ".join(corpus("docstrings", 10_000)).split()
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(LOG_MEAN, LOG_SPREAD, count), 2, 180).astype(int)
    starts = rng.integers(0, len(words) - 200, count)
    return [
        f"{number} {' '.join(words[start : start + length])}"
        for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
    ]


def texts_of(count: int, tokens: int, encoder: Encoder) -> list[str]:
    """Texts of so many tokens each, special ones included, of words that are one token each."""
    known = [
        f" {word}" for word in dict.fromkeys(" ".join(corpus("sentences", 3000)).lower().split()) if word.isalpha()
    ]
    lengths = encoder.tokenize(known).lengths
    single = [word for word, length in zip(known, lengths.tolist(), strict=True) if length == 3]
    picks = np.random.default_rng(0).integers(0, len(single), (count, tokens - 2))
    return ["".join(single[pick] for pick in row) for row in picks.tolist()]
