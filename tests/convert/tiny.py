"""BERT small enough for a thousand runs in a test, with random weights and the built-in sentences' letters as vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

from fletcher.convert.texts import SENTENCES

MAX_TOKENS = 20
HIDDEN = 32


def save_bert(folder: Path) -> None:
    """Write config, weights and tokenizer: two layers, hidden size 32, one token per letter."""
    letters = sorted({char for text in SENTENCES for char in text.lower() if not char.isspace()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    ids = {token: index for index, token in enumerate(vocabulary)}
    transformers.BertTokenizer(vocab=ids).save_pretrained(folder)
    torch.manual_seed(11)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    transformers.BertModel(config).save_pretrained(folder)


def save_embedder(folder: Path) -> Path:
    """Write the BERT and sentence-transformers' files, and return the folder."""
    save_bert(folder)
    save_modules(folder)
    return folder


def save_modules(folder: Path, *, normalize: bool = True, **settings: object) -> None:
    """Write sentence-transformers' files into a checkpoint: mean pooling, and optional L2 normalization.

    Args:
        folder: the checkpoint.
        normalize: whether a Normalize module follows.
        settings: additional keys of `sentence_bert_config.json`.
    """
    paths = {"Transformer": "", "Pooling": "1_Pooling"} | ({"Normalize": "2_Normalize"} if normalize else {})
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(paths.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for path in filter(None, paths.values()):
        (folder / path).mkdir()
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    limits = {"max_seq_length": MAX_TOKENS, **settings}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits))
