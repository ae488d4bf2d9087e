"""Tiny random models of each family, as checkpoints with a tokenizer that transformers reads unchanged, and as artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from fletcher.convert.export.export import export
from fletcher.runtime.artifact.manifest import Target

from ..families.decoders.models import make_tiny
from ..families.restated import Restated
from ..verify.parity import BERT_TOKENS, ROBERTA_TOKENS, randomize, save_checkpoint, save_tokenizer

__all__ = ["MAX_TOKENS", "MODELS", "POOLING", "export_mean", "export_restated", "save_artifact"]

MAX_TOKENS = 96

#: Three layers: a first, a middle and a last one. The vocabulary is large enough for widely spread ids.
SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 100,
}
_DISTILBERT: dict[str, Any] = {"vocab_size": 120, "dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 56}
_T5: dict[str, Any] = {"vocab_size": 120, "d_model": 48, "d_kv": 10, "num_heads": 4, "num_layers": 3, "d_ff": 56}
_IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
_COUNTED: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}

#: As in DeBERTa v3, with few ranges of distances.
DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 16,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}

#: Key of each pooling in sentence-transformers' files.
POOLING = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "lasttoken": "pooling_mode_lasttoken",
}

#: Families with RoBERTa's special tokens.
COUNTED = ("roberta", "xlm-roberta", "camembert", "mpnet", "jina_embeddings_v3", "longformer")

#: Families with RMS norms that are compared here, by their case, and all of them with `-m slow`.
RMS_NORMED = ("embedding_gemma2", "gemma", "gemma3_both", "lfm2", "llama", "mistral", "qwen3", "qwen3_window")


def _make_rms_normed(name: str) -> Any:
    """Return a model with positions for the longest text, and with vectors of the hidden size."""
    changes = {"embedding_dim": SIZES["hidden_size"]} if name == "embedding_gemma2" else {}
    return make_tiny(name, max_position_embeddings=100, vocab_size=120, **changes).model


#: By family; in two of three layers of ModernBERT, attention reaches 8 tokens to each side.
MODELS: Mapping[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZES)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**SIZES, **_COUNTED)),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**SIZES, **_COUNTED)),
    "camembert": lambda: transformers.CamembertModel(transformers.CamembertConfig(**SIZES, **_COUNTED)),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(**_DISTILBERT, max_position_embeddings=100)
    ),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**SIZES)),
    "albert": lambda: transformers.AlbertModel(transformers.AlbertConfig(**SIZES, embedding_size=24)),
    "big_bird": lambda: transformers.BigBirdModel(transformers.BigBirdConfig(**SIZES, pad_token_id=0)),
    "convbert": lambda: transformers.ConvBertModel(
        transformers.ConvBertConfig(**SIZES, embedding_size=24, pad_token_id=0)
    ),
    "deberta-v2": lambda: transformers.DebertaV2Model(transformers.DebertaV2Config(**SIZES, **DEBERTA)),
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(**SIZES, embedding_size=24)),
    "gte": lambda: transformers.GteModel(transformers.GteConfig(**SIZES)),
    "jina_embeddings_v3": lambda: transformers.JinaEmbeddingsV3Model(
        transformers.JinaEmbeddingsV3Config(**SIZES, **_COUNTED)
    ),
    "longformer": lambda: transformers.LongformerModel(
        transformers.LongformerConfig(**SIZES, **_COUNTED, attention_window=16)
    ),
    "mt5": lambda: transformers.MT5EncoderModel(transformers.MT5Config(**_T5, feed_forward_proj="gated-gelu")),
    "t5": lambda: transformers.T5EncoderModel(transformers.T5Config(**_T5, relative_attention_max_distance=16)),
    "nomic_bert": lambda: transformers.NomicBertModel(transformers.NomicBertConfig(**SIZES)),
    "modernbert": lambda: transformers.ModernBertModel(
        transformers.ModernBertConfig(**SIZES, **_IDS, local_attention=16)
    ),
    **{name: partial(_make_rms_normed, name) for name in RMS_NORMED},
}


def save_artifact(family: str, folder: Path, mode: str = "mean", targets: Sequence[Target] = ("cpu",)) -> Path:
    """Write a checkpoint and its artifact.

    Args:
        family: key of `MODELS`.
        folder: parent of the new folders `checkpoint` and `artifact`.
        mode: key of `POOLING`.
        targets: targets of the artifact.

    Returns:
        The artifact.
    """
    checkpoint = folder / "checkpoint"
    tokens = ROBERTA_TOKENS if family in COUNTED else BERT_TOKENS
    model = MODELS[family]()
    std = 0.1 if family in ("mt5", "t5") else 0.2  # T5 does not scale its scores
    save_checkpoint(model if family in RMS_NORMED else randomize(model, std=std), checkpoint, tokens)
    return export_mean(checkpoint, SIZES["hidden_size"], mode, targets)


def export_restated(model: Restated, folder: Path, *, vocabulary: int, hidden: int) -> Path:
    """Write the checkpoint of a restated model with a tokenizer into a folder, and export it by `export_mean`."""
    checkpoint = model.save(folder / "checkpoint")
    save_tokenizer(checkpoint, vocabulary)
    return export_mean(checkpoint, hidden)


def export_mean(checkpoint: Path, hidden: int, mode: str = "mean", targets: Sequence[Target] = ("cpu",)) -> Path:
    """Export a checkpoint into a sibling folder, with mean or another pooling and normalization.

    Args:
        checkpoint: folder with model and tokenizer; the function adds the other files.
        hidden: width of a token vector.
        mode: key of `POOLING`.
        targets: targets of the artifact.

    Returns:
        The artifact.
    """
    # Without this, transformers would load the tokenizer with the family's class.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_TOKENS}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    modules = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(modules.items())
    ]
    (checkpoint / "modules.json").write_text(json.dumps(entries))
    (checkpoint / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": hidden, **{key: name == mode for name, key in POOLING.items()}}
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    artifact = checkpoint.with_name("artifact")
    export(str(checkpoint), artifact, max_tokens=MAX_TOKENS, targets=targets)
    return artifact
