"""ELECTRA compared with transformers, with and without a projection after the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    ElectraModel,
)

from ..verify.parity import Parity, randomize
from .tiny import POSITIONS, SIZES


@pytest.mark.parametrize("width", [16, 48, 64])
def test_parity(tmp_path: Path, width: int) -> None:
    parity = Parity.of(randomize(ElectraModel(ElectraConfig(**SIZES, embedding_size=width))), tmp_path, POSITIONS)
    parity.check()
    parity.check_sensitivity("key.bias")


@pytest.mark.parametrize("kind", [ElectraForMaskedLM, ElectraForPreTraining, ElectraForSequenceClassification])
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = randomize(kind(ElectraConfig(**SIZES, embedding_size=16)))
    Parity.of(model, tmp_path, POSITIONS, encoder=model.electra).check_batches()
