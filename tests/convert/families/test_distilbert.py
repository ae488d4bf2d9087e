"""DistilBERT compared with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertModel,
)

from ..verify.parity import Parity, randomize
from .tiny import DISTILBERT_SIZES, POSITIONS


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_parity(tmp_path: Path, activation: str) -> None:
    model = randomize(DistilBertModel(DistilBertConfig(**DISTILBERT_SIZES, activation=activation)))
    parity = Parity.of(model, tmp_path, POSITIONS)
    parity.check()
    parity.check_sensitivity("k_lin.bias")


def test_sinusoidal_positions(tmp_path: Path) -> None:
    """The test stores the table of sines; the other weights are random."""
    model = DistilBertModel(DistilBertConfig(**DISTILBERT_SIZES, sinusoidal_pos_embds=True))
    sines = model.embeddings.position_embeddings.weight.detach().clone()
    assert sines[0, :2].tolist() == [0, 1]  # sin(0), cos(0)
    randomize(model).embeddings.position_embeddings.weight.data.copy_(sines)
    Parity.of(model, tmp_path, POSITIONS).check()


@pytest.mark.parametrize(
    "kind", [DistilBertForMaskedLM, DistilBertForQuestionAnswering, DistilBertForSequenceClassification]
)
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = randomize(kind(DistilBertConfig(**DISTILBERT_SIZES)))
    Parity.of(model, tmp_path, POSITIONS, encoder=model.distilbert).check_batches()
