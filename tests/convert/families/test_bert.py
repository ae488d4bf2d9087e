"""BERT compared with transformers, and properties of all BERT-like families: activations, heads, old names, any size."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel
from transformers.activations import ACT2FN

from fletcher.convert.graph.activations import AUTHORED

from ..verify.parity import Parity, load, make_card, randomize, save_checkpoint
from .tiny import POSITIONS, SIZES, UNSEEN, rename_tensors


def _model(**changes: Any) -> Any:
    return randomize(BertModel(BertConfig(**(SIZES | changes))))


def test_parity(tmp_path: Path) -> None:
    parity = Parity.of(_model(), tmp_path, POSITIONS)
    parity.check()
    parity.check_sensitivity(*UNSEEN)


@pytest.mark.parametrize("activation", sorted(AUTHORED & set(ACT2FN)))
def test_every_authored_activation(tmp_path: Path, activation: str) -> None:
    Parity.of(_model(hidden_act=activation), tmp_path, POSITIONS).check_batches()


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_norm_eps": 1e-3},
        {"type_vocab_size": 1},
        {"num_hidden_layers": 1},
        {"num_attention_heads": 1},
        {"num_attention_heads": 12},
        {"chunk_size_feed_forward": 1},
        {"max_position_embeddings": 520},
    ],
    ids=str,
)
def test_sizes(tmp_path: Path, changes: dict[str, Any]) -> None:
    Parity.of(_model(**changes), tmp_path, POSITIONS).check_batches()


@pytest.mark.parametrize("head", [BertForMaskedLM, BertForSequenceClassification])
def test_a_head_is_left_out(tmp_path: Path, head: Any) -> None:
    """The file also has the head's tensors, and those of the encoder have the prefix `bert.`."""
    model = randomize(head(BertConfig(**SIZES)))
    Parity.of(model, tmp_path, POSITIONS, encoder=model.bert).check_batches()


def test_names_of_tensorflow(tmp_path: Path) -> None:
    model = _model()
    save_checkpoint(model, tmp_path)
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(name: str) -> str:
        for new, old in renamed.items():
            name = name.replace(new, old)
        return name

    rename_tensors(tmp_path, rename)
    session = load(tmp_path, make_card(tmp_path, SIZES["hidden_size"], POSITIONS))
    intact = Parity.of(model, tmp_path / "intact", POSITIONS)
    rows = intact.rows([3, 9])
    np.testing.assert_allclose(
        Parity(model, session, intact.tokens, 120, POSITIONS).fletcher(rows), intact.huggingface(rows), atol=1e-5
    )


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 6),
    head_size=st.integers(8, 17),
    intermediate=st.integers(1, 64),
    activation=st.sampled_from(["gelu", "gelu_new", "relu", "silu"]),
    epsilon=st.sampled_from([1e-12, 1e-7, 1e-5, 1e-2]),
    lengths=st.lists(st.integers(1, POSITIONS), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_any_size(
    layers: int,
    heads: int,
    head_size: int,
    intermediate: int,
    activation: str,
    epsilon: float,
    lengths: list[int],
    seed: int,
) -> None:
    config = BertConfig(
        vocab_size=60,
        hidden_size=heads * head_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        hidden_act=activation,
        layer_norm_eps=epsilon,
        max_position_embeddings=POSITIONS,
    )
    with tempfile.TemporaryDirectory() as folder:
        parity = Parity.of(randomize(BertModel(config), seed), Path(folder), POSITIONS)
        rows = parity.rows(lengths, seed)
        np.testing.assert_allclose(parity.fletcher(rows), parity.huggingface(rows), rtol=0, atol=1e-5)
