"""GTE v1.5 compared with transformers' class, and the original's positions compared with a restatement of their formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional
from transformers import GteConfig, GteForMaskedLM, GteModel

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.runtime.errors import CheckpointError

from ...verify.parity import BERT_TOKENS, Parity, load, make_card, randomize
from ..restated import Restated, half_turned

LONGEST = 24
VOCABULARY, HIDDEN, HEADS, INNER, LAYERS = 60, 32, 2, 40, 2


class New(Restated):
    """Original `NewModel`: norm(x + f(x)), up · g(gate) with `up` above `gate` in one tensor, NTK-aware positions.

    Formulas: "mGTE", arxiv 2407.19669; kexue.fm/archives/9706 for the positions; modeling.py of Alibaba-NLP/new-impl.
    """

    def __init__(self, **changes: Any) -> None:
        config: dict[str, Any] = {
            "model_type": "new",
            "hidden_act": "gelu",
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "layer_norm_eps": 1e-12,
            "layer_norm_type": "layer_norm",
            "logn_attention_clip1": False,
            "logn_attention_scale": False,
            "max_position_embeddings": LONGEST,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "pack_qkv": True,
            "position_embedding_type": "rope",
            "rope_scaling": None,
            "rope_theta": 500,
            "type_vocab_size": 2,
            "unpad_inputs": True,
            "use_memory_efficient_attention": True,
            "vocab_size": VOCABULARY,
        }
        config |= changes
        shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN)}
        if config["type_vocab_size"]:
            shapes["embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], HIDDEN)
        shapes |= {"embeddings.LayerNorm.weight": (HIDDEN,), "embeddings.LayerNorm.bias": (HIDDEN,)}
        for index in range(LAYERS):
            name = f"encoder.layer.{index}"
            for part in ["qkv"] if config["pack_qkv"] else ["q", "k", "v"]:
                rows = HIDDEN * len(part)
                shapes |= {f"{name}.attention.{part}_proj.weight": (rows, HIDDEN)}
                shapes |= {f"{name}.attention.{part}_proj.bias": (rows,)}
            shapes |= {f"{name}.attention.o_proj.weight": (HIDDEN, HIDDEN), f"{name}.attention.o_proj.bias": (HIDDEN,)}
            shapes |= {f"{name}.mlp.up_gate_proj.weight": (2 * INNER, HIDDEN)}
            shapes |= {f"{name}.mlp.down_proj.weight": (HIDDEN, INNER), f"{name}.mlp.down_proj.bias": (HIDDEN,)}
            for part in ("attn_ln", "mlp_ln"):
                shapes |= {f"{name}.{part}.weight": (HIDDEN,), f"{name}.{part}.bias": (HIDDEN,)}
        super().__init__(config, shapes, LONGEST)

    def pairs(self) -> torch.Tensor:
        """Return θ^(-2i/d), stretched by k as in kexue.fm/archives/9706: equation (6) or, mixed, equations (10) to (13)."""
        width = HIDDEN // HEADS
        theta = torch.tensor(float(self.settings["rope_theta"]))
        powers = torch.arange(0, width, 2).float() / width
        scaling = self.settings["rope_scaling"]
        if scaling is None:
            return 1 / theta**powers
        stretch, mixed = torch.tensor(float(scaling["factor"])), scaling.get("mixed_b")
        if mixed is None:
            return 1 / (theta * stretch) ** powers / stretch ** (2 / width)
        rate = stretch.log() / (width / 2) ** mixed
        return 1 / theta**powers / torch.exp(rate * torch.arange(1, width // 2 + 1).float() ** mixed)

    def forward(self, ids: torch.Tensor, bias: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        epsilon, pairs = self.settings["layer_norm_eps"], self.pairs()
        hidden = self.tensors["embeddings.word_embeddings.weight"][ids]
        if self.settings["type_vocab_size"]:
            hidden = hidden + self.tensors["embeddings.token_type_embeddings.weight"][0]
        hidden = self.norm("embeddings.LayerNorm", hidden, epsilon)
        for index in range(LAYERS):
            name = f"encoder.layer.{index}"
            parts = ["qkv"] if self.settings["pack_qkv"] else ["q", "k", "v"]
            qkv = torch.cat([self.linear(f"{name}.attention.{part}_proj", hidden) for part in parts], -1)
            query, key, value = qkv.reshape(*ids.shape, 3, HEADS, HIDDEN // HEADS).unbind(2)
            query, key = (half_turned(part, positions, pairs) for part in (query, key))
            context = self.linear(f"{name}.attention.o_proj", self.attend(query, key, value, bias))
            hidden = self.norm(f"{name}.attn_ln", hidden + context, epsilon)
            up, gate = self.linear(f"{name}.mlp.up_gate_proj", hidden).chunk(2, -1)
            down = self.linear(f"{name}.mlp.down_proj", functional.gelu(gate) * up)
            hidden = self.norm(f"{name}.mlp_ln", hidden + down, epsilon)
        return hidden


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"type_vocab_size": 0, "pack_qkv": False},
        {"rope_scaling": {"type": "ntk", "factor": 2.0}},
        {"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.625}},
    ],
    ids=["plain", "no_types_unpacked", "ntk", "mixed_ntk"],
)
def test_parity_with_the_original(tmp_path: Path, changes: dict[str, Any]) -> None:
    parity = New(**changes).parity(tmp_path, HIDDEN, VOCABULARY)
    parity.check()
    parity.check_sensitivity()


def _config(**changes: Any) -> GteConfig:
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": LONGEST,
        "pad_token_id": 0,
        "attn_implementation": "eager",
    }
    return GteConfig(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"type_vocab_size": 0, "hidden_act": "silu", "layer_norm_eps": 1e-3},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20.0}},
    ],
    ids=["default", "no_types", "linear"],
)
def test_parity_with_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    parity = Parity.of(randomize(GteModel(_config(**changes))), tmp_path, LONGEST)
    parity.check()
    parity.check_sensitivity()


@pytest.mark.parametrize(("original", "name"), [(True, "attention.qkv_proj.bias"), (False, "self_attn.q_proj.bias")])
def test_both_sets_of_tensor_names(tmp_path: Path, original: bool, name: str) -> None:
    model = randomize(GteModel(_config()))
    model.save_pretrained(tmp_path, save_original_format=original)
    assert any(tensor.endswith(name) for tensor in Checkpoint.open(tmp_path).tensors)
    session = load(tmp_path, make_card(tmp_path, HIDDEN, LONGEST))
    Parity(model, session, BERT_TOKENS, VOCABULARY, LONGEST).check_batches()


def test_the_restatement_agrees_with_transformers(tmp_path: Path) -> None:
    """transformers loads the original's tensors: both references give the same vector."""
    new = New()
    config = {**_config(rope_parameters={"rope_type": "default", "rope_theta": 500.0}).to_dict(), "type_vocab_size": 2}
    new.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.tensor([[2, 9, 31, 12, 3]])
    with torch.no_grad():
        assert torch.allclose(model(ids).last_hidden_state, new(ids).last_hidden_state, atol=1e-5)


def test_a_model_saved_with_its_head(tmp_path: Path) -> None:
    model = randomize(GteForMaskedLM(_config()))
    Parity.of(model, tmp_path, LONGEST, encoder=model.gte).check_batches()


def test_scaling_stretches_the_positions(tmp_path: Path) -> None:
    folder = New(rope_scaling={"type": "ntk", "factor": 4.0}).save(tmp_path)
    assert describe(Checkpoint.open(folder)).max_positions == 4 * LONGEST


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"position_embedding_type": "absolute"}, "position_embedding_type"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type"),
        ({"logn_attention_scale": True}, "logn_attention_scale"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"type": "ntk"}}, "factor"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "alpha": 1.0}}, "alpha"),
        (
            {"rope_scaling": {"type": "ntk", "factor": 2.0}, "rope_parameters": {"rope_theta": 9.0}},
            "both rope_scaling and rope_parameters",
        ),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": 10_000}, "JSON object"),
        ({"hidden_act": "xielu"}, "hidden_act"),
        ({"type_vocab_size": 3}, "token_type_embeddings"),
        ({"pack_qkv": False}, "q_proj"),
        ({"window": 4}, "window"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = New().save(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=named):
        describe(Checkpoint.open(folder))
