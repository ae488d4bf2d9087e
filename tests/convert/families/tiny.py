"""Sizes of the tiny models: three layers, that is, a first, a middle and a last one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

__all__ = [
    "DISTILBERT_SIZES",
    "POSITIONS",
    "SIZES",
    "UNSEEN",
    "Tensors",
    "edit_config",
    "edit_tensors",
    "rename_tensors",
]

Tensors = dict[str, NDArray[Any]]

POSITIONS = 40

#: Sizes under BERT's names of arguments.
SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": POSITIONS,
}

#: The same sizes under DistilBERT's names.
DISTILBERT_SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "dim": 48,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 56,
    "max_position_embeddings": POSITIONS,
}

#: Ends of names of parameters that change no vector: softmax cancels a key's bias, and the pooler is not used.
UNSEEN = ("key.bias", "pooler.dense.weight", "pooler.dense.bias")


def edit_config(folder: Path, *without: str, **changes: Any) -> None:
    """Change keys of `config.json`, and remove some."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in without}))


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    """Give the tensors of `model.safetensors` other names."""
    edit_tensors(folder, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})


def edit_tensors(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    """Rewrite `model.safetensors` with changed tensors."""
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file)
