"""Models of the cost contract: one layer, wide vectors and a long input, so that large answers are computed fast."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from fletcher.convert.export.export import export

from ...convert import tiny
from ...convert.heads import test_classification
from ...convert.heads.tiny import SIZES, convert

__all__ = ["make_models"]

HIDDEN, MAX_TOKENS = 384, 256


def make_models(folder: Path) -> tuple[Path, Path]:
    """Return the folders of an embedder, `wide`, and of a reranker."""
    checkpoint = folder / "checkpoint"
    tiny.save_embedder(checkpoint)
    torch.manual_seed(11)
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(checkpoint))
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
    )
    transformers.BertModel(config).save_pretrained(checkpoint)
    for name, key, value in (
        (
            "1_Pooling/config.json",
            f'"word_embedding_dimension": {tiny.HIDDEN}',
            f'"word_embedding_dimension": {HIDDEN}',
        ),
        ("sentence_bert_config.json", f'"max_seq_length": {tiny.MAX_TOKENS}', f'"max_seq_length": {MAX_TOKENS}'),
    ):
        path = checkpoint / name
        text = path.read_text()
        assert key in text
        path.write_text(text.replace(key, value))
    export(str(checkpoint), folder / "wide")
    reranker = test_classification.make(folder / "reranker", "Bert", SIZES)
    return folder / "wide", convert(reranker).path
