"""Configurations as their authors published them, with older keys. Only the sizes are smaller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel

from ...verify.parity import BERT_TOKENS, ROBERTA_TOKENS, Parity, load, make_card, randomize, save_checkpoint
from ..tiny import POSITIONS, SIZES

DROPOUT = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "initializer_range": 0.02}

PUBLISHED: dict[str, dict[str, Any]] = {
    "google-bert/bert-base-multilingual-cased": {
        **SIZES,
        **DROPOUT,
        "architectures": ["BertForMaskedLM"],
        "directionality": "bidi",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "model_type": "bert",
        "pad_token_id": 0,
        "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform",
        "position_embedding_type": "absolute",
        "transformers_version": "4.16.0.dev0",
        "type_vocab_size": 2,
        "use_cache": True,
    },
    "FacebookAI/xlm-roberta-base": {
        **SIZES,
        **DROPOUT,
        "architectures": ["XLMRobertaForMaskedLM"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "model_type": "xlm-roberta",
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "transformers_version": "4.17.0.dev0",
        "type_vocab_size": 1,
        "use_cache": True,
    },
    "almanach/camembert-base": {
        **SIZES,
        **DROPOUT,
        "architectures": ["CamembertForMaskedLM"],
        "bos_token_id": 5,
        "eos_token_id": 6,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "model_type": "camembert",
        "output_past": True,
        "pad_token_id": 1,
        "type_vocab_size": 1,
    },
    "distilbert/distilbert-base-uncased": {
        "activation": "gelu",
        "architectures": ["DistilBertForMaskedLM"],
        "attention_dropout": 0.1,
        "dim": 48,
        "dropout": 0.1,
        "hidden_dim": 56,
        "initializer_range": 0.02,
        "max_position_embeddings": POSITIONS,
        "model_type": "distilbert",
        "n_heads": 4,
        "n_layers": 3,
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "transformers_version": "4.10.0.dev0",
        "vocab_size": 120,
    },
    "sentence-transformers/all-mpnet-base-v2": {
        **SIZES,
        **DROPOUT,
        "_name_or_path": "microsoft/mpnet-base",
        "architectures": ["MPNetForMaskedLM"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "model_type": "mpnet",
        "pad_token_id": 1,
        "relative_attention_num_buckets": 32,
        "transformers_version": "4.8.2",
    },
    "albert/albert-base-v2": {
        **SIZES,
        "architectures": ["AlbertForMaskedLM"],
        "attention_probs_dropout_prob": 0,
        "bos_token_id": 2,
        "classifier_dropout_prob": 0.1,
        "down_scale_factor": 1,
        "embedding_size": 16,
        "eos_token_id": 3,
        "gap_size": 0,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0,
        "initializer_range": 0.02,
        "inner_group_num": 1,
        "layer_norm_eps": 1e-12,
        "model_type": "albert",
        "net_structure_type": 0,
        "num_hidden_groups": 1,
        "num_memory_blocks": 0,
        "pad_token_id": 0,
        "type_vocab_size": 2,
    },
    "google/electra-small-discriminator": {
        **SIZES,
        **DROPOUT,
        "architectures": ["ElectraForPreTraining"],
        "embedding_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "model_type": "electra",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "summary_activation": "gelu",
        "summary_last_dropout": 0.1,
        "summary_type": "first",
        "summary_use_proj": True,
        "type_vocab_size": 2,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("optional", [True, False], ids=["as published", "defaults left out"])
def test_a_published_configuration(tmp_path: Path, name: str, optional: bool) -> None:
    """Compare with the model that transformers builds from the file, with and without the keys that have a default."""
    config = PUBLISHED[name]
    if not optional:
        defaults = ("hidden_act", "activation", "type_vocab_size", "layer_norm_eps", "num_hidden_groups")
        config = {key: value for key, value in config.items() if key not in defaults}
    offset = 2 if config["pad_token_id"] == 1 else 0
    tokens = ROBERTA_TOKENS if offset else BERT_TOKENS
    text = json.dumps(config)
    (tmp_path / "config.json").write_text(text)
    model = randomize(AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)))  # type: ignore[no-untyped-call]
    save_checkpoint(model, tmp_path, tokens)
    (tmp_path / "config.json").write_text(text)
    session = load(tmp_path, make_card(tmp_path, 48, POSITIONS - offset))
    Parity(model, session, tokens, 120, POSITIONS - offset).check_batches()
