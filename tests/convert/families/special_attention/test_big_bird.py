"""BigBird compared with transformers, up to the length at which its vectors begin to depend on other texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BigBirdConfig, BigBirdForMaskedLM, BigBirdForSequenceClassification, BigBirdModel

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.export.export import export
from fletcher.convert.families import describe
from fletcher.runtime.errors import CheckpointError

from ...verify.parity import BERT_TOKENS, Parity, load, make_card, randomize, save_checkpoint
from ..tiny import POSITIONS, SIZES, UNSEEN, edit_config

#: Full attention up to (5 + 2 · 1) · 4 = 28 tokens.
BLOCKS: dict[str, Any] = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
FULL: dict[str, Any] = {"attention_type": "original_full"}


def make(settings: dict[str, Any] = FULL, kind: Any = BigBirdModel) -> Any:
    return randomize(kind(BigBirdConfig(**(SIZES | settings))))


@pytest.mark.parametrize(
    ("settings", "longest"),
    [(FULL, POSITIONS), (BLOCKS, 28), (FULL | {"use_bias": False, "hidden_act": "relu"}, POSITIONS)],
)
def test_parity(tmp_path: Path, settings: dict[str, Any], longest: int) -> None:
    parity = Parity.of(make(settings), tmp_path, longest)
    parity.check()
    parity.check_sensitivity(*UNSEEN, "pooler.weight", "pooler.bias")
    assert describe(Checkpoint.open(tmp_path)).max_positions == longest


def test_longer_texts_depend_on_what_was_computed_before() -> None:
    """That is why their vectors are not authored: the same model gives the same text two vectors."""
    model = make(BLOCKS)
    long, short = torch.arange(5, 38)[None], torch.arange(5, 12)[None]
    with torch.no_grad():
        first = model(long).last_hidden_state.numpy()
        model(short)
        second = model(long).last_hidden_state.numpy()
    assert np.abs(first - second).max() > 0.01


def test_longer_texts_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_checkpoint(make(BLOCKS), tmp_path / "checkpoint", BERT_TOKENS)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 39}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"attention_type is block_sparse: .* two vectors"):
        export(str(folder), tmp_path / "artifact", pooling="mean")
    export(str(folder), tmp_path / "artifact", pooling="mean", max_tokens=8)


@pytest.mark.parametrize("kind", [BigBirdForMaskedLM, BigBirdForSequenceClassification])
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = make(kind=kind)
    Parity.of(model, tmp_path, 24, encoder=model.bert).check_batches()


@pytest.mark.parametrize(
    ("key", "value"), [("attention_type", "sparse"), ("rescale_embeddings", True), ("block_size", 0)]
)
def test_what_is_not_authored_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    folder = save_checkpoint(make(), tmp_path, BERT_TOKENS)
    edit_config(folder, **{key: value})
    with pytest.raises(CheckpointError, match=key):
        load(folder, make_card(folder, SIZES["hidden_size"], 24))
