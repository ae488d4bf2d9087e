"""Tiny models of the families with RMS norms: odd sizes, each switch of a configuration at least once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

from ...targets.tiny import Tiny
from ...verify.parity import BERT_TOKENS, randomize

__all__ = ["CASES", "POSITIONS", "QUICK", "Case", "make_tiny", "settings_of"]

POSITIONS = 40

SIZES: Mapping[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


@dataclass(frozen=True, slots=True)
class Case:
    """`Case`: name of a family's classes in transformers, and settings that differ from `SIZES`."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
_GEMMA3 = {"head_dim": 16, "num_key_value_heads": 1, "sliding_window": 6, "sliding_window_pattern": 2}
_TWO_BASES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 300.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
}

#: Queries are scaled from position 40 on, where the texts end.
_MINISTRAL3 = {
    "max_position_embeddings": 4 * POSITIONS,
    "head_dim": 16,
    "rope_parameters": {
        "type": "yarn",
        "rope_theta": 100.0,
        "factor": 4.0,
        "original_max_position_embeddings": POSITIONS,
        "max_position_embeddings": 4 * POSITIONS,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
_LFM2 = {"layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8}

CASES: Mapping[str, Case] = {
    "eurobert": Case("EuroBert", {"mlp_bias": True, "mask_token_id": 4}),
    "gemma": Case("Gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma_biased": Case("Gemma", {"head_dim": 8, "attention_bias": True, "hidden_act": "relu"}),
    "gemma3": Case("Gemma3Text", {**_GEMMA3, "query_pre_attn_scalar": 20}),
    "gemma3_both": Case("Gemma3Text", {**_GEMMA3, "use_bidirectional_attention": True, "rope_parameters": _TWO_BASES}),
    "gemma3_not_causal": Case("Gemma3Text", {**_GEMMA3, "is_causal": False}),
    "gemma3_wide_window": Case("Gemma3Text", {**_GEMMA3, "sliding_window": POSITIONS, "attention_bias": True}),
    "embedding_gemma2": Case(
        "EmbeddingGemma2Text",
        {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "global_head_dim": 16,
            "num_global_key_value_heads": 1,
            "sliding_window": 3,
            "sliding_window_pattern": 2,
            "hidden_size_per_layer_input": 12,
            "embedding_dim": 20,
        },
    ),
    "lfm2": Case("Lfm2", _LFM2),
    "lfm2_biased": Case(
        "Lfm2",
        {**_LFM2, "conv_bias": True, "conv_L_cache": 4, "block_auto_adjust_ff_dim": False, "num_key_value_heads": 1},
    ),
    "lfm2_attends_both": Case("Lfm2", {**_LFM2, "is_causal": False, "conv_L_cache": 5}),
    "llama": Case("Llama", {"rope_parameters": _LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "llama_both": Case("Llama", {"is_causal": False, "num_key_value_heads": 4, "head_dim": 6}),
    "llama_yarn": Case(
        "Llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
    ),
    "ministral3": Case("Ministral3", _MINISTRAL3),
    "ministral3_both": Case("Ministral3", {**_MINISTRAL3, "is_causal": False, "num_key_value_heads": 1}),
    "ministral3_window": Case("Ministral3", {**_MINISTRAL3, "sliding_window": 6}),
    "mistral": Case("Mistral", {"sliding_window": 7, "head_dim": 6}),
    "mistral_whole": Case("Mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    "mistral_both": Case("Mistral", {"sliding_window": 4, "is_causal": False}),
    "qwen2": Case("Qwen2", {"num_key_value_heads": 4, "hidden_act": "gelu"}),
    "qwen2_window": Case("Qwen2", _WINDOW),
    "qwen3": Case("Qwen3", {"head_dim": 16, "num_attention_heads": 8, "num_key_value_heads": 1}),
    "qwen3_window": Case("Qwen3", {**_WINDOW, "head_dim": 8, "attention_bias": True}),
    "qwen3_both": Case("Qwen3", {**_WINDOW, "head_dim": 8, "is_causal": False}),
}

#: Cases that always run: each kind of norm and of mask, grouped heads, a gate by the embeddings, short convolutions. The
#: others are slow.
QUICK = ("embedding_gemma2", "gemma3_both", "lfm2", "llama", "qwen3", "qwen3_window")


def settings_of(name: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of a case, with changes."""
    return {**SIZES, **CASES[name].settings, **changes}


def make_tiny(name: str, **changes: Any) -> Tiny:
    """Return the tiny model of a case.

    Args:
        name: key of `CASES`.
        changes: settings that differ.
    """
    kind = CASES[name].name
    config = getattr(transformers, f"{kind}Config")(**settings_of(name, **changes))
    model = getattr(transformers, f"{kind}Model")(config)
    randomize(model, norms=0.0 if kind in ("Gemma", "Gemma3Text") else 1.0)  # Gemma's factor is 1 + weight
    if kind == "EmbeddingGemma2Text":
        for name_of, parameter in model.named_parameters():
            if name_of.endswith("q_norm.weight"):
                # It does not scale its scores: those of random weights would be far apart.
                parameter.data.mul_(0.3)
    hidden = config.embedding_dim if kind == "EmbeddingGemma2Text" else config.hidden_size
    # The final norm makes elements of 1 to 10 of any states; 2e-5 is allowed after a normalization.
    return Tiny(config.model_type, model, POSITIONS, BERT_TOKENS, config.vocab_size, hidden, tolerance=3e-5)
