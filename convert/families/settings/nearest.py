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
        "bert-generation": (
            "bert",
            "the same layers; its embeddings have no token types, and a decoder attends to the past alone",
        ),
        "canine": ("bert", "it reads characters, which it hashes, and shortens the text"),
        "clip_text_model": (
            "xlm-roberta-xl",
            "it attends to the past alone, and the vector of the end token is projected",
        ),
        "cohere2": ("llama", "its attention and its feed-forward part are side by side, and its norms have a mean"),
        "data2vec-text": ("roberta", "the same layers; its files have another prefix and model type"),
        "deberta": ("deberta-v2", "its query, key and value are one product, and its distances have no ranges"),
        "ernie4_5": ("llama", "its rotary positions turn neighbors"),
        "ernie": ("bert", "its embeddings have a table of tasks"),
        "esm": ("roberta", "its norms are before each part, and its positions are rotary or learned by configuration"),
        "ernie_m": ("bert", "its norms and its positions are those of another order"),
        "flaubert": ("bert", "its embeddings have a table of languages, and its norms can be before each part"),
        "funnel": ("bert", "it shortens the text between blocks of layers, and its positions are relative"),
        "gemma2": ("gemma3_text", "its scores have soft caps, and its queries and keys have no norms"),
        "gemma3n_text": (
            "gemma3_text",
            "it keeps several states of each token, and each layer has embeddings of its own",
        ),
        "gemma4_text": (
            "embedding_gemma2_text",
            "it attends to the past alone, its layers can share keys and values, and can have experts",
        ),
        "glm4": ("llama", "it has norms after each part too, and a part of each head is rotated"),
        "gpt_oss": ("llama", "its layers have experts, and its scores have sinks"),
        "granite": ("llama", "its embeddings, scores and sums have factors"),
        "ibert": ("roberta", "its products are computed with whole numbers"),
        "layoutlm": ("bert", "its embeddings have positions on a page"),
        "longt5": ("t5", "its attention is local, with global tokens that are means of blocks"),
        "llama4_text": ("llama", "its layers have experts, and some of them have no positions"),
        "luke": ("roberta", "it has tokens of entities beside those of words"),
        "megatron-bert": ("bert", "its norms are before each part, and one is after the last layer"),
        "ministral": ("mistral", "some of its layers attend to a window, and others to the whole text"),
        "mixtral": ("mistral", "its layers have experts"),
        "mobilebert": ("bert", "its layers have bottlenecks, several feed-forward parts, and norms without a mean"),
        "modernbert-decoder": ("modernbert", "it attends to the past alone"),
        "mra": ("roberta", "its attention is approximated in blocks"),
        "nemotron": (
            "llama",
            "its norms have a mean, its feed-forward part has no gate, and a part of each head is rotated",
        ),
        "nezha": ("bert", "its positions are relative, in the scores and in the values"),
        "nystromformer": ("bert", "its attention is approximated by landmarks"),
        "olmo2": ("qwen3", "its norms are after each part, and those of queries and keys go over all heads"),
        "olmo3": ("qwen3", "its norms are after each part, and some layers attend to a window"),
        "phi3": ("llama", "its projections are joined in one matrix, and a part of each head can be rotated"),
        "qwen2_moe": ("qwen2", "its layers have experts"),
        "qwen3_5_text": ("qwen3", "most of its layers have linear attention with a state"),
        "qwen3_moe": ("qwen3", "its layers have experts"),
        "qwen3_next": ("qwen3", "most of its layers have linear attention with a state, and experts"),
        "qwen3_vl_text": ("qwen3", "the same layers; its rotary positions have three axes, which are equal for a text"),
        "rembert": ("bert", "its embeddings are narrower than its layers"),
        "roc_bert": ("bert", "its embeddings have tables of the shapes and sounds of characters"),
        "roberta-prelayernorm": ("xlm-roberta-xl", "its embeddings have a norm"),
        "roformer": ("bert", "its positions are rotary"),
        "siglip2_text_model": (
            "xlm-roberta-xl",
            "the vector of its last position is projected, with padding to one length",
        ),
        "siglip_text_model": (
            "xlm-roberta-xl",
            "the vector of its last position is projected, with padding to one length",
        ),
        "smollm3": ("llama", "some of its layers have no positions"),
        "splinter": ("bert", "the same layers; its files have another prefix and model type"),
        "squeezebert": ("bert", "its products are grouped convolutions"),
        "ultrabert": ("eurobert", "some of its layers attend to a window, with rotary positions of another base"),
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


#: Keys of configurations whose layers have experts, and kinds of layers that have attention.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ATTENTION = frozenset({"full_attention", "sliding_attention", "attention"})

#: Keys of the text's configuration in models that read images or sounds too.
_TEXT_PARTS = ("text_config", "vlm_config", "thinker_config")


def explain_nearest(config: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Return a sentence on the nearest supported family, or nothing if none is near.

    Of a model that reads images or sounds too, it is the family of the text's part.

    Args:
        config: config.json of a checkpoint whose model type is not authored.
        known: the authored families.
    """
    for part in (config.get(name) for name in _TEXT_PARTS):
        if isinstance(part, Mapping):
            return _explain_part(part, known)
    family, difference = NEAREST.get(str(config.get("model_type")), ("", ""))
    if not family:
        found = (name for name, keys in _BY_KEYS if name in known and keys <= config.keys())
        family = next(found, "")
        difference = "this is judged by the keys of config.json alone, so that layers may compute something else"
        difference = f"{_further(config)}{difference}"
    if family not in known:
        return ""
    return f"The nearest family is {family}: {difference}. "


def _explain_part(part: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Return sentences on a model whose text has a part of its own."""
    kind = str(part.get("model_type", ""))
    if kind in known:
        return (
            f"It reads other inputs besides texts. Its part for texts is of the family {kind}, which Fletcher authors where "
            "it is a checkpoint of its own. "
        )
    named = f", {kind!r}," if kind else ""
    nearest = explain_nearest(part, known)
    return f"It reads other inputs besides texts; its part for texts{named} is not authored either. {nearest}"


def _further(config: Mapping[str, Any]) -> str:
    """Return what the keys of a configuration say about parts that no near family has."""
    kinds = config.get("layer_types")
    others = sorted({str(kind) for kind in kinds} - _ATTENTION) if isinstance(kinds, list) else []
    found = [f"it has layers of the kind {', '.join(others)}"] if others else []
    if any(config.get(key) for key in _EXPERTS):
        found.append("its layers have experts")
    return "".join(f"{part}; " for part in found)
