"""The models that the GPU benchmarks run: MiniLM from its checkpoint, others of published dimensions with random weights.

Made on the GPU host by Fletcher's own converter, so that nothing but one checkpoint has to travel.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, NomicBertConfig, NomicBertModel

from fletcher.convert.export.export import export

__all__ = ["RANDOM", "make_artifact", "make_checkpoint"]

TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
RANDOM: dict[str, Callable[[], torch.nn.Module]] = {
    "bert-tiny": lambda: BertModel(BertConfig(vocab_size=30522, **TINY)),
    "bert-base": lambda: BertModel(BertConfig(vocab_size=30522)),
    "nomic-embed": lambda: NomicBertModel(NomicBertConfig()),
}


def make_checkpoint(name: str, folder: Path, tokenizer: Path) -> Path:
    """A random checkpoint with somebody's tokenizer."""
    torch.manual_seed(0)
    RANDOM[name]().eval().save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder


def make_artifact(
    checkpoint: Path, folder: Path, *, max_tokens: int | None = None, targets: tuple[str, ...] = ("cuda",)
) -> Path:
    """An fp16 artifact of a checkpoint."""
    export(
        str(checkpoint),
        folder,
        targets=targets,
        precisions=("fp16",),
        pooling="mean",
        max_tokens=max_tokens,
    )
    return folder
