"""ModernBERT compared with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertModel

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.runtime.errors import CheckpointError

from ..verify.parity import BERT_TOKENS, Parity, load, make_card, randomize

LONGEST = 24


def _config(**changes: Any) -> ModernBertConfig:
    fields: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 20,
        "max_position_embeddings": LONGEST,
        "local_attention": 6,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "attn_implementation": "eager",
    }
    return ModernBertConfig(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "hidden_activation": "silu"},
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]},
        {"local_attention": 5},
        {"local_attention": 2 * LONGEST},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 700.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 33.0},
            }
        },
    ],
    ids=["default", "biases", "layer_types", "odd_window", "wide_window", "bases"],
)
def test_parity(tmp_path: Path, changes: dict[str, Any]) -> None:
    parity = Parity.of(randomize(ModernBertModel(_config(**changes))), tmp_path, LONGEST)
    parity.check()
    parity.check_sensitivity()


def test_a_model_saved_with_its_head(tmp_path: Path) -> None:
    model = randomize(ModernBertForMaskedLM(_config()))
    Parity.of(model, tmp_path, LONGEST, encoder=model.model).check_batches()


def test_a_configuration_of_the_first_release(tmp_path: Path) -> None:
    """The first release has other keys; transformers loads the same file as the reference."""
    randomize(ModernBertModel(_config())).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["layer_types"], config["rope_parameters"]
    config |= {
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 90.0,
        "local_rope_theta": 40.0,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "absolute",
        "reference_compile": None,
        "repad_logits_with_grad": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert [layer.attention_type[0] for layer in model.layers] == ["f", "s", "f", "s"]
    session = load(tmp_path, make_card(tmp_path, 32, LONGEST))
    Parity(model, session, BERT_TOKENS, 60, LONGEST).check()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_activation": "mish"}, "hidden_activation"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}}, "yarn"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 10.0, "beta_fast": 2}}}, "beta_fast"),
        ({"rope_parameters": {"rope_theta": 10.0}}, "rope_parameters"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["chunked_attention"] * 4}, "layer_types"),
        ({"norm_bias": 1}, "norm_bias"),
        ({"norm_bias": True}, "embeddings.norm.bias"),
        ({"query_norm": True}, "query_norm"),
        ({"num_attention_heads": 5}, "5 attention heads"),
        ({"intermediate_size": 21}, "Wi"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    ModernBertModel(_config()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=named):
        describe(Checkpoint.open(tmp_path))
