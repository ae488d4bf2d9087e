"""DeBERTa v2 and v3 compared with transformers: products with distances, shared and own projections, ranges of distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM, DebertaV2ForSequenceClassification, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from fletcher.convert.families.special_attention.deberta_v2 import rows_by_distance
from fletcher.runtime.errors import CheckpointError

from ...verify.parity import BERT_TOKENS, Parity, load, make_card, randomize, save_checkpoint
from ..tiny import SIZES, edit_config

#: As in deberta-v3-base, with few ranges.
V3: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "max_relative_positions": -1,
}
OWN: dict[str, Any] = V3 | {"share_att_key": False, "position_buckets": -1, "type_vocab_size": 2}

VARIATIONS: dict[str, dict[str, Any]] = {
    "v3": V3,
    "own projections, a row for each distance, token types": OWN,
    "content to position": OWN | {"pos_att_type": ["c2p"], "norm_rel_ebd": "none"},
    "position to content, close distances": OWN | {"pos_att_type": ["p2c"], "max_relative_positions": 5},
    "absolute positions too": V3 | {"position_biased_input": True, "max_relative_positions": 20},
    "no relative positions": {"type_vocab_size": 0},
}


def make(settings: dict[str, Any], **changes: Any) -> Any:
    return randomize(DebertaV2Model(DebertaV2Config(**(SIZES | settings | changes))), std=0.15)


@pytest.mark.parametrize("name", VARIATIONS)
def test_parity(tmp_path: Path, name: str) -> None:
    parity = Parity.of(make(VARIATIONS[name]), tmp_path, SIZES["max_position_embeddings"])
    parity.check_batches()
    parity.check_company()


def test_padding_and_every_weight(tmp_path: Path) -> None:
    parity = Parity.of(make(V3), tmp_path, SIZES["max_position_embeddings"], sides=("right",))
    parity.check_padding()
    # With shared projections, the bias of a key meets the tables, so that softmax does not cancel it.
    parity.check_sensitivity()


@pytest.mark.parametrize("kind", [DebertaV2ForMaskedLM, DebertaV2ForSequenceClassification])
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = randomize(kind(DebertaV2Config(**SIZES, **V3)))
    Parity.of(model, tmp_path, 24, encoder=model.deberta).check_batches()


@pytest.mark.parametrize(
    ("buckets", "largest", "positions"),
    [(256, 512, 512), (256, 512, 1024), (8, 40, 40), (7, 77, 200), (31, 333, 200), (-1, 40, 60)],
)
def test_rows_of_distances_are_those_of_transformers(buckets: int, largest: int, positions: int) -> None:
    rows = torch.zeros(1, positions, 1)
    span = buckets if buckets > 0 else largest
    expected = build_relative_position(rows, rows, buckets, largest)[0].add(span).clamp(0, 2 * span - 1).numpy()
    step = np.arange(positions)
    found = rows_by_distance(positions, max(buckets, 0), largest)[step[:, None] - step + positions - 1]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("conv_kernel_size", 3),
        ("attention_head_size", 20),
        ("embedding_size", 24),
        ("pooler_hidden_size", 24),
        ("pos_att_type", [3]),
        ("relative_attention", False),
        ("position_buckets", 2),
        ("position_buckets", 80),
        ("norm_rel_ebd", None),
        ("hidden_act", "gelu_10"),
    ],
)
def test_what_is_not_authored_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    folder = save_checkpoint(make(V3), tmp_path, BERT_TOKENS)
    edit_config(folder, **{key: value})
    with pytest.raises(CheckpointError, match=key):
        load(folder, make_card(folder, SIZES["hidden_size"], 24))


def test_no_kind_of_product_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(make(V3), tmp_path, BERT_TOKENS)
    edit_config(folder, pos_att_type=["p2p"])
    with pytest.raises(CheckpointError, match="names neither c2p nor p2c"):
        load(folder, make_card(folder, SIZES["hidden_size"], 24))
