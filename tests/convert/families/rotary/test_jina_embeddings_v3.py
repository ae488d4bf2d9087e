"""jina-embeddings-v3 compared with transformers: both sets of names, rotary scaling, heads, and an adapter of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3ForMaskedLM,
    JinaEmbeddingsV3ForSequenceClassification,
    JinaEmbeddingsV3Model,
)

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.runtime.errors import CheckpointError

from ...verify.parity import ROBERTA_TOKENS, Parity, load, make_card, randomize
from ..tiny import POSITIONS, SIZES, edit_config

HIDDEN = SIZES["hidden_size"]
UNUSED = ("pooler.dense.weight", "pooler.dense.bias")


def make(kind: Any = JinaEmbeddingsV3Model, **changes: Any) -> Any:
    return randomize(kind(JinaEmbeddingsV3Config(**(SIZES | changes))))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "hidden_act": "relu"},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 20_000.0}},
        {"type_vocab_size": 2, "layer_norm_eps": 1e-3},
    ],
)
def test_parity(tmp_path: Path, changes: dict[str, Any]) -> None:
    parity = Parity.of(make(**changes), tmp_path, POSITIONS, ROBERTA_TOKENS)
    parity.check()
    parity.check_sensitivity(*UNUSED)  # rotation lets softmax see a key's bias


@pytest.mark.parametrize(("original", "name"), [(True, "mixer.Wqkv.weight"), (False, "self_attn.q_proj.weight")])
def test_both_sets_of_tensor_names(tmp_path: Path, original: bool, name: str) -> None:
    model = make()
    model.save_pretrained(tmp_path, save_original_format=original)
    assert any(tensor.endswith(name) for tensor in Checkpoint.open(tmp_path).tensors)
    session = load(tmp_path, make_card(tmp_path, HIDDEN, POSITIONS))
    Parity(model, session, ROBERTA_TOKENS, SIZES["vocab_size"], POSITIONS).check_batches()


@pytest.mark.parametrize("kind", [JinaEmbeddingsV3ForMaskedLM, JinaEmbeddingsV3ForSequenceClassification])
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = make(kind)
    Parity.of(model, tmp_path, POSITIONS, ROBERTA_TOKENS, encoder=model.roberta).check_batches()


def test_an_adapter_of_a_task_is_merged(tmp_path: Path) -> None:
    """PEFT adds scale · B · A to a product and scale · (B · A)ᵀ to a table; its files name transformers' modules."""
    model = make()
    model.save_pretrained(tmp_path, save_original_format=False)
    generator = torch.Generator().manual_seed(5)
    parts, rank, alpha = {}, 3, 6.0

    def add(module: str, weight: torch.nn.Parameter, table: bool) -> None:
        rows, columns = weight.shape
        shapes = ((rank, rows), (columns, rank)) if table else ((rank, columns), (rows, rank))
        down, up = (torch.randn(shape, generator=generator) * 0.1 for shape in shapes)
        kind = "lora_embedding_" if table else "lora_"
        suffix = "" if table else ".weight"
        parts[f"base_model.model.{module}.{kind}A{suffix}"] = down
        parts[f"base_model.model.{module}.{kind}B{suffix}"] = up
        product = (up @ down) * alpha / rank
        weight.data += product.T if table else product

    add("embeddings.word_embeddings", model.embeddings.word_embeddings.weight, table=True)
    for index, layer in enumerate(model.layers):
        add(f"layers.{index}.self_attn.q_proj", layer.self_attn.q_proj.weight, table=False)
        add(f"layers.{index}.mlp.fc2", layer.mlp.fc2.weight, table=False)
    save_file(parts, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": rank, "lora_alpha": alpha}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    session = load(tmp_path, make_card(tmp_path, HIDDEN, POSITIONS))
    parity = Parity(model, session, ROBERTA_TOKENS, SIZES["vocab_size"], POSITIONS)
    rows = parity.rows([9, 3, POSITIONS])
    np.testing.assert_allclose(parity.fletcher(rows), parity.huggingface(rows), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("key", "value"), [("rotary_emb_base", 20_000.0), ("hidden_act", "elu"), ("head_dim", 6)])
def test_what_is_not_authored_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    make().save_pretrained(tmp_path)
    edit_config(tmp_path, **{key: value})
    with pytest.raises(CheckpointError, match=key):
        load(tmp_path, make_card(tmp_path, HIDDEN, POSITIONS))
