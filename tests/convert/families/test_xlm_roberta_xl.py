"""XLM-RoBERTa XL compared with transformers: norms before each part, none of the embeddings."""

from __future__ import annotations

from pathlib import Path

from transformers import XLMRobertaXLConfig, XLMRobertaXLForMaskedLM, XLMRobertaXLModel

from ..verify.parity import ROBERTA_TOKENS, Parity, randomize
from .tiny import POSITIONS, SIZES, UNSEEN


def test_parity(tmp_path: Path) -> None:
    model = randomize(XLMRobertaXLModel(XLMRobertaXLConfig(**SIZES)))
    parity = Parity.of(model, tmp_path, POSITIONS - 2, ROBERTA_TOKENS, absolute=False)
    parity.check()
    parity.check_sensitivity(*UNSEEN)


def test_a_head_is_left_out(tmp_path: Path) -> None:
    model = randomize(XLMRobertaXLForMaskedLM(XLMRobertaXLConfig(**SIZES)))
    parity = Parity.of(model, tmp_path, POSITIONS - 2, ROBERTA_TOKENS, absolute=False, encoder=model.roberta)
    parity.check_batches()
