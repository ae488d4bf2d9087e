"""Models of the GPU benchmarks: MiniLM from its checkpoint, and others of published dimensions with random weights.

Fletcher's converter makes them on the GPU host, so only one checkpoint has to be copied there.
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
    """Write a checkpoint with random weights and the tokenizer of another one."""
    torch.manual_seed(0)
    RANDOM[name]().eval().save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder


def make_artifact(
    checkpoint: Path,
    folder: Path,
    *,
    max_tokens: int | None = None,
    targets: tuple[str, ...] = ("cuda",),
    precisions: tuple[str, ...] = ("fp16",),
) -> Path:
    """Convert a checkpoint to an artifact."""
    export(
        str(checkpoint),
        folder,
        targets=targets,
        precisions=precisions,
        pooling="mean",
        max_tokens=max_tokens,
    )
    return folder
