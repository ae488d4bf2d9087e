"""ALBERT compared with transformers: narrow tables, and groups of layers whose shared weights are written once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from transformers import AlbertConfig, AlbertForMaskedLM, AlbertForPreTraining, AlbertModel

from fletcher.runtime.errors import CheckpointError

from ..verify.parity import Parity, load, make_card, randomize
from .tiny import POSITIONS, SIZES, edit_config

NARROW = SIZES | {"embedding_size": 16}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embedding_size": 48},
        {"hidden_act": "gelu"},
        {"num_hidden_layers": 4, "num_hidden_groups": 2},
        {"num_hidden_groups": 3},
        {"num_hidden_layers": 5, "num_hidden_groups": 3},
        {"inner_group_num": 2},
    ],
    ids=str,
)
def test_parity(tmp_path: Path, changes: dict[str, Any]) -> None:
    parity = Parity.of(randomize(AlbertModel(AlbertConfig(**(NARROW | changes)))), tmp_path, POSITIONS)
    parity.check()
    parity.check_sensitivity("key.bias", "pooler.weight", "pooler.bias")


@pytest.mark.parametrize("kind", [AlbertForMaskedLM, AlbertForPreTraining])
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = randomize(kind(AlbertConfig(**NARROW)))
    Parity.of(model, tmp_path, POSITIONS, encoder=model.albert).check_batches()


def test_shared_weights_are_written_once(tmp_path: Path) -> None:
    """Twelve layers of one group store the encoder's parameters once, without the pooler and one row of the token types."""
    model = AlbertModel(AlbertConfig(**(NARROW | {"num_hidden_layers": 12})), add_pooling_layer=False)
    Parity.of(randomize(model), tmp_path, POSITIONS)
    written = load_file(tmp_path / "graph" / "weights.safetensors")
    unused = NARROW["embedding_size"]  # the row of token type 1
    assert sum(tensor.size for tensor in written.values()) == sum(p.numel() for p in model.parameters()) - unused


def test_keys_of_googles_code(tmp_path: Path) -> None:
    """The file of albert-base-v2 has them, with the values that transformers' class implies; any other value is refused."""
    parity = Parity.of(randomize(AlbertModel(AlbertConfig(**NARROW))), tmp_path, POSITIONS)
    card = make_card(tmp_path, NARROW["hidden_size"], POSITIONS)
    edit_config(tmp_path, down_scale_factor=1, gap_size=0, net_structure_type=0, num_memory_blocks=0)
    dataclasses.replace(parity, session=load(tmp_path, card)).check_batches()
    edit_config(tmp_path, num_memory_blocks=1)
    with pytest.raises(CheckpointError, match="num_memory_blocks is 1"):
        load(tmp_path, card)
