"""Committed canaries: readable, small, and consistent with their cards."""

from __future__ import annotations

import numpy as np
import pytest

from fletcher.model_zoo import canary_path, list_cards
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.canary import read_canary

CARDS = [card for card in list_cards() if canary_path(card.name) is not None]


def test_minilm_has_a_canary() -> None:
    assert "all-MiniLM-L6-v2" in {card.name for card in CARDS}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_committed_canary_is_small_finite_and_diverse(card: ModelCard) -> None:
    path = canary_path(card.name)
    assert path is not None
    assert path.stat().st_size < 200_000
    canary = read_canary(path)
    assert "HuggingFace float32" in canary.origin
    assert canary.vectors.shape == (len(canary.texts), card.dimension)
    assert canary.vectors.dtype == np.float32
    norms = np.linalg.norm(canary.vectors, axis=1)
    assert np.isfinite(norms).all()
    if card.normalize:
        np.testing.assert_allclose(norms, 1.0, atol=1e-6)
    lengths = canary.encodings.lengths
    assert lengths.min() <= 3
    assert lengths.max() == min(card.max_tokens, 512)
    assert "" in canary.texts
    assert len(np.unique(canary.vectors.round(4), axis=0)) >= len(canary.texts) - 2  # blank texts have equal vectors
