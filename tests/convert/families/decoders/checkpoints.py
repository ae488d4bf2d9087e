"""Checkpoints of tiny decoders with a tokenizer, which can be exported."""

from __future__ import annotations

from pathlib import Path

import transformers

from ...checkpoint.tokenizer.decoder_variants import write_variant
from ...verify.parity import randomize
from .models import settings_of

__all__ = ["save_qwen3"]


def save_qwen3(folder: Path) -> None:
    """Write a Qwen3 whose rows and heads fit Fletcher's kernels."""
    write_variant("qwen3", folder)
    size = len(transformers.AutoTokenizer.from_pretrained(folder))
    settings = settings_of("qwen3", vocab_size=size, max_position_embeddings=100, intermediate_size=32)
    randomize(transformers.Qwen3Model(transformers.Qwen3Config(**settings))).save_pretrained(folder)
