"""jina-embeddings-v3 with adapters for tasks inside its checkpoint: the adapter of one task is merged into the weights.

The original repository (model type `xlm-roberta` with rotary positions) keeps, for each product and table, the base tensor
and two matrices of each task. `task_layout` gives such a folder the configuration of transformers' JinaEmbeddingsV3 and the
prompts of its tasks. For an artifact of one task, `merge_task` merges that task's matrices when they are read; for one of all
tasks it gives the base tensors, and the matrices beside them.

Source: `XLMRobertaLoRA` and `LoRAParametrization` in modeling_lora.py of jinaai/xlm-roberta-flash-implementation on
huggingface.co, read in copies of it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import INPUT_TYPE_SYNONYMS
from fletcher.runtime.errors import CheckpointError, InputError

from .json_files import find_json
from .sentence_transformers import read_modules
from .weights.stored import StoredTensor

__all__ = ["TASK_KEY", "input_type_of", "merge_task", "task_layout", "task_of", "task_types", "tasks_of"]

#: Key of the temporary configuration with the place and the factor of the task's adapter.
TASK_KEY = "task_adapter"

#: Keys of the original's configuration that are applied here, or concern kernels with the same results and training.
APPLIED = (
    *(
        "lora_adaptations",
        "lora_alpha",
        "lora_rank",
        "lora_dropout_p",
        "lora_main_params_trainable",
        "task_instructions",
    ),
    *("load_trained_adapters", "position_embedding_type", "rotary_emb_base", "model_type", "architectures", "auto_map"),
    *("use_flash_attn", "use_reentrant", "emb_pooler"),
)

ORIGINAL, DOWN, UP = ".parametrizations.weight.original", ".lora_A", ".lora_B"


@dataclass(frozen=True, slots=True)
class _Merged(StoredTensor):
    """Tensor with a task's product: base + scale · first[task] · second[task], in float32.

    Attributes:
        base: tensor of the base model.
        first: left matrices of all tasks, (tasks, rows, rank).
        second: right matrices of all tasks, (tasks, rank, columns).
        task: index of the task.
        scale: factor of the product.
    """

    base: StoredTensor | None = None
    first: StoredTensor | None = None
    second: StoredTensor | None = None
    task: int = 0
    scale: float = 1.0

    def read(self) -> NDArray[Any]:
        """Return the merged tensor."""
        return self._rows(slice(None))

    def parts(self, elements: int) -> Iterator[NDArray[Any]]:
        """Yield the merged tensor's elements in their order, some rows at a time."""
        step = max(1, elements // self.shape[1])
        for first in range(0, self.shape[0], step):
            yield self._rows(slice(first, first + step)).reshape(-1)

    def _rows(self, rows: slice) -> NDArray[np.float32]:
        if self.base is None or self.first is None or self.second is None:
            raise ValueError(f"the merged tensor {self.name} lacks a part")
        left = np.asarray(self.first.read()[self.task][rows]).astype(np.float32)
        right = np.asarray(self.second.read()[self.task]).astype(np.float32)
        base = np.asarray(self.base.read()[rows]).astype(np.float32)
        return np.asarray(base + left @ right * np.float32(self.scale), np.float32)


def tasks_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tasks that a configuration has adapters for; none for other models."""
    tasks = config.get("lora_adaptations")
    known = config.get("model_type") == "xlm-roberta" and config.get("position_embedding_type") == "rotary"
    return tuple(map(str, tasks)) if known and isinstance(tasks, list) else ()


def input_type_of(task: str) -> str:
    """Return Fletcher's input type of a task or a route: `query` for `retrieval.query`, `document` for Asym's `doc`."""
    return "document" if task == "doc" else INPUT_TYPE_SYNONYMS.get(task, task)


def task_of(config: Mapping[str, Any], input_type: str | msgspec.UnsetType) -> str | None:
    """Return the task of an artifact's input type; None for models without adapters for tasks."""
    return next((task for task in tasks_of(config) if input_type_of(task) == input_type), None)


def task_types(folder: Path) -> Mapping[str, int]:
    """Return the number of the adapter of each input type, of a folder that `task_layout` gave for all tasks."""
    chosen = find_json(folder / "config.json").get(TASK_KEY) or {}
    if chosen.get("index") is not None:
        return {}
    return {name: index for index, name in enumerate(chosen.get("input_types", ()))}


@contextlib.contextmanager
def task_layout(folder: Path, task: str | None) -> Iterator[Path]:
    """Give a checkpoint with adapters for tasks the files of transformers' class for one task; give any other as it is.

    Args:
        folder: the checkpoint.
        task: the task that the user chose; None for all of them.

    Raises:
        InputError: a task was chosen that the checkpoint does not have.
        CheckpointError: the adapters are not those of a trained model.
    """
    config = find_json(folder / "config.json")
    tasks = tasks_of(config)
    if task is not None and task not in tasks:
        has = f"has adapters for {', '.join(tasks)}" if tasks else "has no adapters for tasks"
        raise InputError(f"--task {task}: {folder} {has}")
    if not tasks:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        for path in folder.iterdir():
            if path.suffix != ".py":
                (view / path.name).symlink_to(path.resolve())
        index = None if task is None else tasks.index(task)
        _rewrite(view / "config.json", _configuration(folder / "config.json", config, index))
        entries = [dict(module.entry) for module in read_modules(folder)]
        for entry in entries[:1]:  # the repository's own class, which adds the prompt and chooses the adapter
            entry["type"] = "sentence_transformers.models.Transformer"
            entry.pop("kwargs", None)
        if entries:
            _rewrite(view / "modules.json", entries)
        settings = find_json(folder / "config_sentence_transformers.json")
        given = config.get("task_instructions") or {}
        prompts = {input_type_of(name): given[name] for name in tasks if task in (None, name) and given.get(name)}
        _rewrite(
            view / "config_sentence_transformers.json", {**settings, "prompts": prompts, "default_prompt_name": None}
        )
        try:
            yield view
        except CheckpointError as error:  # a message names the user's folder, not the temporary one
            raise CheckpointError(str(error).replace(str(view), str(folder))) from error


def merge_task(
    folder: Path, tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> Mapping[str, StoredTensor]:
    """Return the tensors with the adapter of the task that the configuration of `task_layout` names, under their usual names.

    If it names no task, the base tensors have their usual names, and the adapters of NAME.weight are NAME.lora_A and
    NAME.lora_B, one matrix of all tasks each.

    Raises:
        CheckpointError: the adapter of a tensor is missing, or of another shape.
    """
    chosen = config.get(TASK_KEY)
    if chosen is None:
        return tensors
    merged = {name: tensor for name, tensor in tensors.items() if ".parametrizations." not in name}
    for name, base in tensors.items():
        if not name.endswith(ORIGINAL):
            continue
        stem = name.removesuffix(ORIGINAL)
        parts = [tensors.get(f"{stem}.parametrizations.weight.0{part}") for part in (DOWN, UP)]
        # A table is added to A · B, a product's transposed weight to B · A.
        first, second = parts if stem.endswith("_embeddings") else parts[::-1]
        if first is None or second is None:
            raise CheckpointError(f"{folder}: the adapter of {stem} lacks lora_A or lora_B")
        count, rank = chosen["count"], chosen["rank"]
        if first.shape != (count, base.shape[0], rank) or second.shape != (count, rank, base.shape[1]):
            raise CheckpointError(
                f"{folder}: the adapter of {stem} has the shapes {first.shape} and {second.shape}, its weight {base.shape}"
            )
        if chosen["index"] is None:
            merged[f"{stem}.weight"] = replace(base, name=f"{stem}.weight")
            for suffix, part in zip((DOWN, UP), parts, strict=True):
                if part is not None:
                    merged[f"{stem}{suffix}"] = replace(part, name=f"{stem}{suffix}")
            continue
        merged[f"{stem}.weight"] = _Merged(
            f"{stem}.weight",
            base.shape,
            np.dtype(np.float32),
            base.file,
            base.start,
            base=base,
            first=first,
            second=second,
            task=chosen["index"],
            scale=chosen["scale"],
        )
    return merged


def _configuration(file: Path, config: Mapping[str, Any], index: int | None) -> dict[str, Any]:
    """Return the configuration of transformers' class, with the place of the task's adapter, or of none for all tasks."""
    if config.get("load_trained_adapters") is not True:
        raise CheckpointError(
            f"{file}: load_trained_adapters is not true, with which the original makes up its adapters"
        )
    rank, alpha = config.get("lora_rank", 4), config.get("lora_alpha", 1)
    for key, value in (("lora_rank", rank), ("lora_alpha", alpha)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{file}: {key} is {value!r}, where a positive number was expected")
    kept = {key: value for key, value in config.items() if key not in APPLIED}
    if kept.get("truncate_dim", 0) is None:
        del kept["truncate_dim"]
    return {
        **kept,
        "model_type": "jina_embeddings_v3",
        "rope_parameters": {"rope_type": "default", "rope_theta": config.get("rotary_emb_base", 10_000.0)},
        TASK_KEY: {
            "index": index,
            "count": len(tasks_of(config)),
            "input_types": list(map(input_type_of, tasks_of(config))),
            "rank": int(rank),
            "scale": alpha / rank,
        },
    }


def _rewrite(file: Path, value: Any) -> None:
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
