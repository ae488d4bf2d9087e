"""NomicBERT compared with transformers' class, and with a restatement for settings that the class does not have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional
from transformers import NomicBertConfig, NomicBertForMaskedLM, NomicBertModel

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.export.export import export
from fletcher.convert.families import describe
from fletcher.runtime.errors import CheckpointError

from ...verify.parity import BERT_TOKENS, Parity, load, make_card, randomize
from ..restated import Restated, half_turned, neighbors_turned

LONGEST = 24
VOCABULARY, HIDDEN, HEADS, INNER, LAYERS = 64, 32, 4, 256, 2
GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swiglu": functional.silu,
    "geglu": functional.gelu,
    "glu": torch.sigmoid,
}


class Nomic(Restated):
    """Original model: norm(x + f(x)), y · g(gate) with y from fc11 and the gate from fc12, and a part of each head rotated.

    Formulas: "Nomic Embed", arxiv 2402.01613, section 4; modeling_hf_nomic_bert.py of github.com/nomic-ai/contrastors.
    """

    def __init__(self, **changes: Any) -> None:
        config: dict[str, Any] = {
            "model_type": "nomic_bert",
            "activation_function": "swiglu",
            "attn_pdrop": 0.0,
            "causal": False,
            "layer_norm_epsilon": 1e-12,
            "max_trained_positions": 2048,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "n_embd": HIDDEN,
            "n_head": HEADS,
            "n_inner": INNER,
            "n_layer": LAYERS,
            "n_positions": LONGEST,
            "pad_vocab_size_multiple": 16,
            "parallel_block": False,
            "parallel_block_tied_norm": False,
            "prenorm": False,
            "qkv_proj_bias": False,
            "rotary_emb_base": 1000,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": None,
            "scale_attn_weights": True,
            "summary_type": "cls_index",
            "tie_word_embeddings": True,
            "type_vocab_size": 2,
            "use_flash_attn": True,
            "use_rms_norm": False,
            "vocab_size": 60,
            "num_experts": 0,
        }
        config |= changes
        gated = config["activation_function"] in GATES
        shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN)}
        if config["type_vocab_size"]:
            shapes["embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], HIDDEN)
        shapes |= {"emb_ln.weight": (HIDDEN,), "emb_ln.bias": (HIDDEN,)}
        for index in range(LAYERS):
            name = f"encoder.layers.{index}"
            products = {
                "attn.Wqkv": (3 * HIDDEN, HIDDEN, config["qkv_proj_bias"]),
                "attn.out_proj": (HIDDEN, HIDDEN, config["qkv_proj_bias"]),
                "mlp.fc2": (HIDDEN, INNER, config["mlp_fc2_bias"]),
            }
            for part in ("fc11", "fc12") if gated else ("fc1",):
                products[f"mlp.{part}"] = (INNER, HIDDEN, config["mlp_fc1_bias"])
            if config["num_experts"] and index % config["moe_every_n_layers"] == 1:
                products = {part: product for part, product in products.items() if part.startswith("attn")}
                products["mlp.router.layer"] = (config["num_experts"], HIDDEN, False)
                shapes |= {
                    f"{name}.mlp.experts.mlp.{part}": (config["num_experts"] * INNER, HIDDEN) for part in ("w1", "w2")
                }
                shapes[f"{name}.mlp.experts.bias"] = (HIDDEN,)
            for part, (rows, columns, bias) in products.items():
                shapes[f"{name}.{part}.weight"] = (rows, columns)
                if bias:
                    shapes[f"{name}.{part}.bias"] = (rows,)
            for part in ("norm1", "norm2"):
                shapes |= {f"{name}.{part}.weight": (HIDDEN,), f"{name}.{part}.bias": (HIDDEN,)}
        super().__init__(config, shapes, LONGEST)

    def forward(self, ids: torch.Tensor, bias: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        config = self.settings
        epsilon = config["layer_norm_epsilon"]
        width = int(HIDDEN // HEADS * config["rotary_emb_fraction"])
        pairs = config["rotary_emb_base"] ** -(torch.arange(0, width, 2).float() / width)
        turn = neighbors_turned if config["rotary_emb_interleaved"] else half_turned
        hidden = self.tensors["embeddings.word_embeddings.weight"][ids]
        if config["type_vocab_size"]:
            hidden = hidden + self.tensors["embeddings.token_type_embeddings.weight"][0]
        hidden = self.norm("emb_ln", hidden, epsilon)
        for index in range(LAYERS):
            name = f"encoder.layers.{index}"
            qkv = self.linear(f"{name}.attn.Wqkv", hidden).reshape(*ids.shape, 3, HEADS, HIDDEN // HEADS)
            query, key = (turn(qkv[:, :, part], positions, pairs) for part in (0, 1))
            context = self.attend(query, key, qkv[:, :, 2], bias)
            hidden = self.norm(f"{name}.norm1", hidden + self.linear(f"{name}.attn.out_proj", context), epsilon)
            if f"{name}.mlp.experts.bias" in self.tensors:
                mixed = self.mix(f"{name}.mlp", hidden.flatten(0, 1)).reshape(hidden.shape)
                hidden = self.norm(f"{name}.norm2", hidden + mixed, epsilon)
                continue
            if gate := GATES.get(config["activation_function"]):
                inner = self.linear(f"{name}.mlp.fc11", hidden) * gate(self.linear(f"{name}.mlp.fc12", hidden))
            else:
                inner = functional.gelu(self.linear(f"{name}.mlp.fc1", hidden))
            hidden = self.norm(f"{name}.norm2", hidden + self.linear(f"{name}.mlp.fc2", inner), epsilon)
        return hidden

    def mix(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Return the experts' results of tokens, (tokens, hidden).

        NomicRouter, NomicExpertMLP and NomicExperts of the original: the softmax is over all experts, the shares of the best
        ones are not normalized, and one bias is added to the sum. The original's code is not in transformers.
        """
        shares = self.linear(f"{name}.router.layer", rows).softmax(-1)
        best, chosen = shares.topk(self.settings["moe_top_k"], -1)
        up, down = (self.tensors[f"{name}.experts.mlp.{part}"].view(-1, INNER, HIDDEN) for part in ("w1", "w2"))
        result = torch.zeros_like(rows)
        for expert in range(len(up)):
            token, place = torch.where(chosen == expert)
            inner = functional.gelu(rows[token] @ up[expert].T)
            result.index_add_(0, token, (inner @ down[expert]) * best[token, place, None])
        return result + self.tensors[f"{name}.experts.bias"]


BIASES = {"qkv_proj_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True}


#: As nomic-embed-text-v2-moe, with fewer experts.
EXPERTS: dict[str, Any] = {
    "activation_function": "gelu",
    "num_experts": 5,
    "moe_top_k": 2,
    "moe_every_n_layers": 2,
    "moe_normalize_expert_weights": False,
    "moe_impl": "megablocks",
    "moe_resid_pdrop": 0.0,
    "expert_choice_router": False,
    "num_shared_experts": 0,
    "router_aux_loss_coef": 0.1,
    "ffn_div": 1,
    "layer_norm_epsilon": 1e-5,
    "type_vocab_size": 1,
    "qkv_proj_bias": True,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        EXPERTS,
        EXPERTS | {"moe_top_k": 1, "num_experts": 3},
        EXPERTS | {"moe_top_k": 3, "num_experts": 3},
        {"rotary_emb_interleaved": True},
        {"rotary_emb_fraction": 0.5},
        {"rotary_emb_fraction": 0.5, "rotary_emb_interleaved": True, "rotary_emb_base": 50},
        {"activation_function": "geglu", **BIASES},
        {"activation_function": "glu"},
        {"activation_function": "gelu", "mlp_fc1_bias": True},
        {"type_vocab_size": 0, "layer_norm_epsilon": 1e-3},
    ],
    ids=[
        "v1.5",
        "v2",
        "one_of_three",
        "all_of_three",
        "interleaved",
        "half",
        "half_interleaved",
        "geglu_biases",
        "glu",
        "gelu",
        "no_types",
    ],
)
def test_parity_with_the_original(tmp_path: Path, changes: dict[str, Any]) -> None:
    parity = Nomic(**changes).parity(tmp_path, HIDDEN, VOCABULARY)
    parity.check()
    parity.check_sensitivity()


def _config(**changes: Any) -> NomicBertConfig:
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 40,
        "max_position_embeddings": LONGEST,
        "attn_implementation": "eager",
    }
    return NomicBertConfig(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 40.0}, "hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1000.0}},
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1000.0,
                "original_max_position_embeddings": 8,
            }
        },
    ],
    ids=["default", "theta", "linear", "yarn"],
)
def test_parity_with_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    parity = Parity.of(randomize(NomicBertModel(_config(**changes))), tmp_path, LONGEST)
    parity.check()
    parity.check_sensitivity()


@pytest.mark.parametrize(("original", "name"), [(True, "attn.Wqkv.weight"), (False, "self_attn.q_proj.weight")])
def test_both_sets_of_tensor_names(tmp_path: Path, original: bool, name: str) -> None:
    model = randomize(NomicBertModel(_config()))
    model.save_pretrained(tmp_path, save_original_format=original)
    assert any(tensor.endswith(name) for tensor in Checkpoint.open(tmp_path).tensors)
    session = load(tmp_path, make_card(tmp_path, HIDDEN, LONGEST))
    Parity(model, session, BERT_TOKENS, VOCABULARY, LONGEST).check_batches()


def test_the_restatement_agrees_with_transformers(tmp_path: Path) -> None:
    """transformers loads the original's tensors: both references give the same vector."""
    nomic = Nomic()
    keys = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": LONGEST,
        "hidden_act": "silu",
        "layer_norm_eps": 1e-12,
        "vocab_size": VOCABULARY,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    }
    nomic.save(tmp_path, **keys)
    model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.tensor([[2, 9, 31, 12, 3]])
    with torch.no_grad():
        assert torch.allclose(model(ids).last_hidden_state, nomic(ids).last_hidden_state, atol=1e-5)
    # The published v1.5 also has both sets of keys.
    session = load(tmp_path, make_card(tmp_path, HIDDEN, LONGEST))
    Parity(model, session, BERT_TOKENS, VOCABULARY, LONGEST).check()


def test_a_model_saved_with_its_head(tmp_path: Path) -> None:
    model = randomize(NomicBertForMaskedLM(_config()))
    Parity.of(model, tmp_path, LONGEST, encoder=model.nomic_bert).check_batches()


def test_positions_end_where_dynamic_scaling_would_begin(tmp_path: Path) -> None:
    """Beyond the training length of v1, a vector would depend on the longest text of the batch."""
    changes = {"rotary_scaling_factor": 2, "n_positions": 8192, "max_trained_positions": 2048}
    assert describe(Checkpoint.open(Nomic(**changes).save(tmp_path / "v1"))).max_positions == 2048
    del changes["rotary_scaling_factor"]
    assert describe(Checkpoint.open(Nomic(**changes).save(tmp_path / "v1.5"))).max_positions == 8192


def test_a_longer_text_is_refused_by_the_key_of_the_scaling(tmp_path: Path) -> None:
    folder = Nomic(rotary_scaling_factor=2, n_positions=8192, max_trained_positions=2048).save(tmp_path / "v1")
    with pytest.raises(CheckpointError) as caught:
        export(str(folder), tmp_path / "artifact", pooling="mean", max_tokens=8192)
    message = str(caught.value)
    assert "rotary_scaling_factor is 2" in message and "max_trained_positions, 2048" in message
    assert message.endswith("choose a smaller --max-tokens")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"activation_function": "gelu_new"}, "activation_function"),
        ({"prenorm": True}, "prenorm"),
        ({"parallel_block": True}, "parallel_block"),
        ({"use_rms_norm": True}, "use_rms_norm"),
        ({"causal": True}, "causal"),
        ({"rotary_emb_scale_base": 512}, "rotary_emb_scale_base"),
        ({"rotary_emb_fraction": 0.0}, "rotary_emb_fraction"),
        ({"rotary_emb_fraction": 0.3}, "rotary_emb_fraction"),
        ({"rotary_emb_interleaved": "no"}, "rotary_emb_interleaved"),
        ({"rope_parameters": {"rope_theta": 7.0}}, "contradicts itself"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"hidden_size": 48}, "contradicts itself"),
        ({"hidden_act": "relu"}, "contradicts itself"),
        ({"num_heads_kv": 2}, "num_heads_kv"),
        ({"head_dim": 16}, "head_dim"),
        ({"num_experts": 8}, "num_experts"),
        (EXPERTS | {"moe_every_n_layers": 1}, "moe_every_n_layers"),
        (EXPERTS | {"moe_top_k": 6}, "moe_top_k"),
        (EXPERTS | {"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights"),
        (EXPERTS | {"expert_choice_router": True}, "expert_choice_router"),
        (EXPERTS | {"num_shared_experts": 1}, "num_shared_experts"),
        (EXPERTS | {"ffn_div": 2}, "ffn_div"),
        ({"n_embd": 0}, "n_embd"),
        ({"qkv_proj_bias": True}, "Wqkv.bias"),
        ({"n_inner": 200, "activation_function": "gelu"}, "fc1.weight"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = Nomic().save(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=named):
        describe(Checkpoint.open(folder))


def test_a_surplus_tensor_is_refused(tmp_path: Path) -> None:
    nomic = Nomic()
    nomic.tensors["encoder.layers.0.attn.q_ln.weight"] = torch.nn.Parameter(torch.ones(HIDDEN))
    with pytest.raises(CheckpointError, match="q_ln"):
        describe(Checkpoint.open(nomic.save(tmp_path)))


def test_the_width_of_gated_units_is_that_of_the_original(tmp_path: Path) -> None:
    """The original rounds n_inner up to a multiple of 256."""
    folder = Nomic().save(tmp_path, n_inner=200)
    assert json.loads((folder / "config.json").read_text())["n_inner"] == 200
    assert describe(Checkpoint.open(folder)).feed_forwards[0].up.weight.shape == (HIDDEN, 256)
