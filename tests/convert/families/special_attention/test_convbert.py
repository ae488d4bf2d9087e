"""ConvBERT compared with transformers, text by text: kernels, heads, groups, and the ends of texts beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ConvBertConfig, ConvBertForMaskedLM, ConvBertForSequenceClassification, ConvBertModel

from fletcher.runtime.errors import CheckpointError

from ...verify.parity import BERT_TOKENS, Parity, load, make_card, randomize, save_checkpoint
from ..tiny import POSITIONS, SIZES, edit_config

#: As in conv-bert-base: half as many heads as configured, and a table of the hidden size.
BASE: dict[str, Any] = {"embedding_size": 48, "conv_kernel_size": 9, "pad_token_id": 0, "head_ratio": 2}

VARIATIONS: dict[str, dict[str, Any]] = {
    "base": BASE,
    "narrow table, short kernels": BASE | {"embedding_size": 16, "conv_kernel_size": 3},
    "groups": BASE | {"num_groups": 2, "conv_kernel_size": 5},
    "one head": BASE | {"head_ratio": 7, "conv_kernel_size": 1},
    "all heads": BASE | {"head_ratio": 1, "type_vocab_size": 1},
}


def make(settings: dict[str, Any] = BASE, kind: Any = ConvBertModel) -> Any:
    return randomize(kind(ConvBertConfig(**(SIZES | settings))), std=0.15)


@pytest.mark.parametrize("name", VARIATIONS)
def test_parity(tmp_path: Path, name: str) -> None:
    """Padding is not compared: transformers lets it into the convolutions."""
    parity = Parity.of(make(VARIATIONS[name]), tmp_path, POSITIONS)
    parity.check_batches()
    parity.check_company()


def test_every_weight_counts(tmp_path: Path) -> None:
    parity = Parity.of(make(), tmp_path, POSITIONS)
    parity.check_sensitivity("key.bias")


def test_padding_moves_the_vectors_of_transformers(tmp_path: Path) -> None:
    """Without this difference, a text beside a longer one would need no care."""
    parity = Parity.of(make(), tmp_path, POSITIONS)
    rows = parity.rows([5])
    assert np.abs(parity.padded(rows, "right", 12) - parity.huggingface(rows)).max() > 0.01


@pytest.mark.parametrize("kind", [ConvBertForMaskedLM, ConvBertForSequenceClassification])
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = make(kind=kind)
    Parity.of(model, tmp_path, 24, encoder=model.convbert).check_batches()


@pytest.mark.parametrize(
    ("key", "value"), [("conv_kernel_size", 8), ("head_ratio", 0), ("num_groups", 5), ("num_attention_heads", 6)]
)
def test_what_is_not_authored_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    folder = save_checkpoint(make(), tmp_path, BERT_TOKENS)
    edit_config(folder, **{key: value})
    with pytest.raises(CheckpointError):
        load(folder, make_card(folder, SIZES["hidden_size"], 24))
