"""RoBERTa, XLM-RoBERTa and CamemBERT compared with transformers: positions after the padding id, padding inside a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import (
    CamembertConfig,
    CamembertForMaskedLM,
    CamembertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
    XLMRobertaXLConfig,
    XLMRobertaXLForMaskedLM,
    XLMRobertaXLModel,
)

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe

from ..verify.parity import ROBERTA_TOKENS, Parity, SpecialTokens, randomize
from .tiny import POSITIONS, SIZES, UNSEEN

LONGEST = POSITIONS - 2  # no token has the rows of the padding id, 1, and of the id before it

KIN = [(RobertaModel, RobertaConfig), (XLMRobertaModel, XLMRobertaConfig), (CamembertModel, CamembertConfig)]


@pytest.mark.parametrize(("kind", "config"), KIN, ids=["roberta", "xlm-roberta", "camembert"])
def test_parity(tmp_path: Path, kind: Any, config: Any) -> None:
    model = randomize(kind(config(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5)))
    parity = Parity.of(model, tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False)
    parity.check()
    parity.check_sensitivity(*UNSEEN)
    assert describe(Checkpoint.open(tmp_path)).max_positions == LONGEST


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (RobertaForMaskedLM, RobertaConfig),
        (RobertaForSequenceClassification, RobertaConfig),
        (XLMRobertaForSequenceClassification, XLMRobertaConfig),
        (CamembertForMaskedLM, CamembertConfig),
    ],
)
def test_a_head_is_left_out(tmp_path: Path, kind: Any, config: Any) -> None:
    model = randomize(kind(config(**SIZES)))
    Parity.of(model, tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False, encoder=model.roberta).check_batches()


@pytest.mark.parametrize("pad", [0, 1, 5])
def test_a_padding_token_inside_a_text(tmp_path: Path, pad: int) -> None:
    """Attention includes the padding token, and the positions after it are counted as if it were absent."""
    names = (*("<pad>" if index == pad else f"<{index}>" for index in range(6)), "<unk>")
    tokens = SpecialTokens(names, start=2, end=3, pad=pad)
    model = randomize(RobertaModel(RobertaConfig(**SIZES, pad_token_id=pad)))
    parity = Parity.of(model, tmp_path, POSITIONS - pad - 1, tokens, absolute=False)
    rows = [(2, 9, pad, 9, 3), (pad,), (pad, pad, 9, 9, pad, 8, pad), (2, 9, 9, 3), (2, 7, pad)]
    np.testing.assert_allclose(parity.fletcher(rows), parity.huggingface(rows), rtol=0, atol=1e-5)
    for row, vector in zip(rows, parity.fletcher(rows), strict=True):
        np.testing.assert_allclose(parity.fletcher([row])[0], vector, rtol=0, atol=1e-6)
    full = parity.rows([parity.longest, 3, parity.longest])
    np.testing.assert_allclose(parity.fletcher(full), parity.huggingface(full), rtol=0, atol=1e-5)


def test_padding_inside_a_text_moves_its_vector(tmp_path: Path) -> None:
    """Without this difference, the previous test would not detect positions that ignore padding ids."""
    model = randomize(RobertaModel(RobertaConfig(**SIZES)))
    parity = Parity.of(model, tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False)
    row = (0, 9, 1, 9, 2)
    counted = model(input_ids=_tensor([row]), position_ids=_tensor([range(2, 2 + len(row))])).last_hidden_state[0, -1]
    assert np.abs(counted.detach().numpy() - parity.huggingface([row])[0, -SIZES["hidden_size"] :]).max() > 0.01


def _tensor(rows: Any) -> Any:
    import torch

    return torch.tensor([list(row) for row in rows])


def test_parity_of_the_xl(tmp_path: Path) -> None:
    model = randomize(XLMRobertaXLModel(XLMRobertaXLConfig(**SIZES)))
    parity = Parity.of(model, tmp_path, POSITIONS - 2, ROBERTA_TOKENS, absolute=False)
    parity.check()
    parity.check_sensitivity(*UNSEEN)


def test_a_head_of_the_xl_is_left_out(tmp_path: Path) -> None:
    model = randomize(XLMRobertaXLForMaskedLM(XLMRobertaXLConfig(**SIZES)))
    parity = Parity.of(model, tmp_path, POSITIONS - 2, ROBERTA_TOKENS, absolute=False, encoder=model.roberta)
    parity.check_batches()
