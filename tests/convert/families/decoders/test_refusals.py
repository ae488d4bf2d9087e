"""Settings of the families with RMS norms that transformers would not apply as Fletcher reads them are refused by name."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.runtime.errors import CheckpointError

from ..tiny import edit_config, rename_tensors
from .models import make_tiny

FULL, SLIDING = "full_attention", "sliding_attention"


@functools.cache
def _model(name: str) -> Any:
    return make_tiny(name).model


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("qwen3", {"is_causal": 1}, "is_causal is 1"),
        ("qwen3", {"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ("qwen3", {"head_dim": 8}, "q_proj"),
        ("qwen3", {"attention_bias": True}, "q_proj.bias"),
        ("qwen3", {"hidden_act": "mish"}, "hidden_act"),
        ("qwen3", {"layer_types": [SLIDING] * 3}, "use_sliding_window"),
        ("qwen3", {"layer_types": [FULL, FULL]}, "layer_types must be 3 times"),
        ("qwen3", {"layer_types": [FULL, FULL, "chunked_attention"]}, "layer_types"),
        ("qwen3", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'"),
        ("qwen3", {"use_qk_norm": True}, "use_qk_norm"),
        ("qwen3", {"num_hidden_layers": 2}, "layer_types must be 2 times"),
        ("llama", {"num_hidden_layers": 2}, "layers.2"),
        ("llama", {"num_attention_heads": 5}, "5 attention heads"),
        ("llama", {"mlp_bias": None}, "mlp_bias is None"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("eurobert", {"is_causal": True}, "is_causal is True"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma", {"hidden_activation": "gelu"}, "hidden_activation"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3", {"sliding_window": None}, "sliding_window is null"),
        ("gemma3", {"use_bidirectional_attention": "both"}, "use_bidirectional_attention is 'both'"),
        ("gemma3_both", {"is_causal": False}, "keep the first"),
        ("gemma3", {"rope_parameters": {"rope_theta": 10.0}}, "rope_parameters must be of"),
        ("gemma3", {"rope_parameters": {FULL: {"rope_type": None, "rope_theta": 10.0}}}, "rope_type of"),
        ("gemma3", {"rope_parameters": {FULL: {"rope_type": "default", "rope_theta": None}}}, "rope_theta is None"),
        ("embedding_gemma2", {"rope_parameters": {FULL: {"rope_type": "default"}}}, "full_attention lacks rope_theta"),
        ("gemma3", {"rope_parameters": {FULL: {"rope_type": "longrope"}}}, "longrope"),
        ("gemma3", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("embedding_gemma2", {"layer_types": [FULL, SLIDING] * 2}, "last layer"),
        ("embedding_gemma2", {"per_layer_config": {"7": {"head_dim": 16}}}, "layers 0 to 3"),
        ("embedding_gemma2", {"per_layer_config": {"1": {"hidden_size": 16}}}, "head_dim and num_key_value_heads"),
        ("embedding_gemma2", {"per_layer_config": {"1": {"head_dim": 16}}}, "different heads for layers of"),
        ("embedding_gemma2", {"embedding_dim": 21}, "embedding_projection"),
    ],
)
def test_unsupported_settings_are_refused_by_name(
    tmp_path: Path, name: str, changes: dict[str, Any], named: str
) -> None:
    _model(name).save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=named):
        describe(Checkpoint.open(tmp_path))


def test_a_tensor_that_the_configuration_does_not_imply_is_refused(tmp_path: Path) -> None:
    _model("qwen3").save_pretrained(tmp_path)
    rename_tensors(tmp_path, lambda name: name.replace("layers.1.self_attn.q_norm", "layers.1.self_attn.sink"))
    with pytest.raises(CheckpointError, match=r"q_norm"):
        describe(Checkpoint.open(tmp_path))
