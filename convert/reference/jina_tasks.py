"""Merge of a task's adapter in torch: the reference of jina-embeddings-v3 as its authors saved it.

Restated from `LoRAParametrization` in modeling_lora.py of jinaai/xlm-roberta-flash-implementation on huggingface.co, read in
copies of it. Its `forward` returns `X + torch.matmul(*self.swap((self.lora_B[task], self.lora_A[task]))).view(X.shape) *
self.scaling`, where `swap` exchanges the two matrices of a table, and `scaling` is alpha / rank. It shares no code with
`checkpoint/task_adapters.py`, which it checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fletcher.runtime.errors import CheckpointError

from ..checkpoint.json_files import find_json

__all__ = ["load_tensors", "merged_state"]


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's safetensors in float32, with those of all shards.

    Raises:
        CheckpointError: the weights are a pickle.
        OSError: a file is missing.
    """
    listing = find_json(folder / "model.safetensors.index.json")
    files = sorted(set(listing["weight_map"].values())) if listing else ["model.safetensors"]
    if not (folder / files[0]).is_file():
        raise CheckpointError(f"{folder} has no safetensors, which this reference reads alone")
    return {name: tensor.float() for file in files for name, tensor in load_file(folder / file).items()}


def merged_state(config: Mapping[str, Any], tensors: Mapping[str, Tensor], task: str | None) -> dict[str, Tensor]:
    """Return the tensors of the model with the adapter of a task, under the names that they have without adapters.

    Args:
        config: `config.json` of the checkpoint.
        tensors: its tensors.
        task: one of `lora_adaptations`; None for the base model.

    Raises:
        KeyError: a setting or a matrix is missing.
    """
    tasks: Sequence[str] = config["lora_adaptations"]
    index, scaling = 0 if task is None else tasks.index(task), config["lora_alpha"] / config["lora_rank"]
    merged = {}
    for name, tensor in tensors.items():
        stem, marker, part = name.partition(".parametrizations.weight.")
        if not marker:
            merged[name] = tensor
        elif part == "original":
            if task is None:
                merged[f"{stem}.weight"] = tensor
                continue
            down, up = (tensors[f"{stem}{marker}0.lora_{side}"][index] for side in "AB")
            pair = (down, up) if stem.rpartition(".")[2].endswith("_embeddings") else (up, down)
            merged[f"{stem}.weight"] = tensor + torch.matmul(*pair).view(tensor.shape) * scaling
    return merged
