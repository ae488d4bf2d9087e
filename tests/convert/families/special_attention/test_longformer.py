"""Longformer compared with transformers: windows shorter and longer than the texts, of each layer, beside other texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    LongformerConfig,
    LongformerForMaskedLM,
    LongformerForSequenceClassification,
    LongformerModel,
)

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.convert.heads.classification import add_classification
from fletcher.runtime.errors import CheckpointError

from ...verify.parity import ROBERTA_TOKENS, Parity, load, make_card, randomize, save_checkpoint
from ..tiny import POSITIONS, SIZES, edit_config

LONGEST = POSITIONS - 2
#: Unused without global attention; and a key's bias, which softmax cancels.
UNSEEN = (
    *("key.bias", "pooler.dense.weight", "pooler.dense.bias"),
    *(f"{part}_global.{kind}" for part in ("query", "key", "value") for kind in ("weight", "bias")),
)


def make(window: Any, kind: Any = LongformerModel, **changes: Any) -> Any:
    return randomize(kind(LongformerConfig(**SIZES, attention_window=window, type_vocab_size=1, **changes)))


@pytest.mark.parametrize("window", [4, 6, 16, 64, [4, 12, 36]], ids=str)
def test_parity(tmp_path: Path, window: Any) -> None:
    # The size of a block depends on the longest text, and with it the order of sums.
    parity = Parity.of(make(window), tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False, batch_tolerance=3e-6)
    parity.check_batches()
    parity.check_company()


def test_padding_and_every_weight(tmp_path: Path) -> None:
    parity = Parity.of(make(6), tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False, sides=("right",))
    parity.check_padding()
    parity.check_sensitivity(*UNSEEN)
    assert describe(Checkpoint.open(tmp_path)).max_positions == LONGEST


def test_a_head_is_left_out(tmp_path: Path) -> None:
    model = make(6, LongformerForMaskedLM)
    Parity.of(model, tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False, encoder=model.longformer).check_batches()


def test_the_classifier_is_refused(tmp_path: Path) -> None:
    """It gives its first token global attention."""
    folder = save_checkpoint(make(6, LongformerForSequenceClassification), tmp_path, ROBERTA_TOKENS)
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"longformer is not authored: .* global attention"):
        add_classification(checkpoint, make_card(folder, 2, 24, output="scores", pooling=()), describe(checkpoint))


@pytest.mark.parametrize("window", [3, 0, [6, 6], [4, 6, 6], "6", True])
def test_windows_that_transformers_refuses(tmp_path: Path, window: Any) -> None:
    folder = save_checkpoint(make(6), tmp_path, ROBERTA_TOKENS)
    edit_config(folder, attention_window=window)
    with pytest.raises(CheckpointError, match="attention_window"):
        load(folder, make_card(folder, SIZES["hidden_size"], 24))
