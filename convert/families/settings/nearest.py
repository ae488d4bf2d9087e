"""The supported family that is nearest to a model type that Fletcher does not author, and what differs.

Sources: the `modeling_*.py` of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["NEAREST", "explain_nearest"]

#: Nearest family, and what differs, by `model_type`.
NEAREST: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "data2vec-text": ("roberta", "the same layers; its files have another prefix and model type"),
        "deberta": ("deberta-v2", "its query, key and value are one product, and its distances have no ranges"),
        "ernie": ("bert", "its embeddings have a table of tasks"),
        "esm": ("roberta", "its norms are before each part, and its positions are rotary or learned by configuration"),
        "ernie_m": ("bert", "its norms and its positions are those of another order"),
        "funnel": ("bert", "it shortens the text between blocks of layers, and its positions are relative"),
        "ibert": ("roberta", "its products are computed with whole numbers"),
        "layoutlm": ("bert", "its embeddings have positions on a page"),
        "longt5": ("t5", "its attention is local, with global tokens that are means of blocks"),
        "luke": ("roberta", "it has tokens of entities beside those of words"),
        "megatron-bert": ("bert", "its norms are before each part, and one is after the last layer"),
        "mobilebert": ("bert", "its layers have bottlenecks, several feed-forward parts, and norms without a mean"),
        "mra": ("roberta", "its attention is approximated in blocks"),
        "nezha": ("bert", "its positions are relative, in the scores and in the values"),
        "nystromformer": ("bert", "its attention is approximated by landmarks"),
        "rembert": ("bert", "its embeddings are narrower than its layers"),
        "roberta-prelayernorm": ("xlm-roberta-xl", "its embeddings have a norm"),
        "roformer": ("bert", "its positions are rotary"),
        "splinter": ("bert", "the same layers; its files have another prefix and model type"),
        "squeezebert": ("bert", "its products are grouped convolutions"),
        "umt5": ("t5", "every layer has a bias by distance of its own"),
        "xlm": ("bert", "its embeddings have a table of languages"),
        "xlnet": ("bert", "its positions are relative, with a second stream of projections"),
        "xmod": ("xlm-roberta", "its layers have adapters for each language"),
        "yoso": ("bert", "its attention is approximated by hashing"),
    }
)

#: Nearest family by keys that a configuration of an unknown type has; the first whose keys are all there.
_BY_KEYS: tuple[tuple[str, frozenset[str]], ...] = (
    ("t5", frozenset({"d_kv", "d_ff", "relative_attention_num_buckets"})),
    ("modernbert", frozenset({"global_attn_every_n_layers", "hidden_size"})),
    ("nomic_bert", frozenset({"n_embd", "rotary_emb_base"})),
    ("jina_bert", frozenset({"feed_forward_type", "hidden_size"})),
    ("qwen3", frozenset({"num_key_value_heads", "rms_norm_eps"})),
    ("mpnet", frozenset({"relative_attention_num_buckets", "hidden_size", "layer_norm_eps"})),
    ("roberta", frozenset({"type_vocab_size", "layer_norm_eps", "pad_token_id", "bos_token_id"})),
    ("bert", frozenset({"hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"})),
)


def explain_nearest(config: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Return a sentence on the nearest supported family, or nothing if none is near.

    Args:
        config: config.json of a checkpoint whose model type is not authored.
        known: the authored families.
    """
    family, difference = NEAREST.get(str(config.get("model_type")), ("", ""))
    if not family:
        found = (name for name, keys in _BY_KEYS if name in known and keys <= config.keys())
        family = next(found, "")
        difference = "this is judged by the keys of config.json alone, so that layers may compute something else"
    if family not in known:
        return ""
    return f"The nearest family is {family}: {difference}. "
