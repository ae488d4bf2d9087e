"""Adapters of PEFT: LoRA is merged into the weights of its base model when they are read; others are refused by name.

A folder with `adapter_config.json` has no model of its own: transformers loads the base model that the file names, and PEFT
adds the adapter. Sources: `find_adapter_config_file` of transformers 5.24; tuners/lora/layer.py and config.py of PEFT 0.21.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo import Checkout
from fletcher.model_zoo.errors import CardError
from fletcher.runtime.errors import CheckpointError

from .ignored_keys import IgnoredKeys
from .json_files import find_json, read_json
from .weights.files import INDEX, PICKLE, PICKLE_INDEX, SINGLE
from .weights.safetensors import read_header
from .weights.stored import StoredTensor
from .weights.torch_file import read_torch_file

__all__ = ["CONFIG", "base_source", "merge_adapter", "with_base"]

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

#: Files of a tokenizer: an adapter has its own, or none.
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model"),
)

#: Keys that are applied, and keys that say nothing about inference: training, the choice of modules, which the tensors show.
APPLIED = frozenset({"peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "use_rslora"})
APPLIED |= {"rank_pattern", "alpha_pattern", "init_lora_weights"}
HARMLESS = frozenset(
    {
        *("auto_mapping", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout"),
        *(
            "parent_library",
            "peft_version",
            "runtime_config",
            "target_modules",
            "task_type",
            "loftq_config",
            "eva_config",
        ),
        *("corda_config", "lora_ga_config", "megatron_config", "megatron_core", "qalora_group_size"),
    }
)

#: Ways to initialize that leave the base weights as they are.
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "lora_ga")


@dataclass(frozen=True, slots=True)
class _Merged(StoredTensor):
    """Tensor of the base model with an adapter's product: base + scale · (B · A), in float32.

    Attributes:
        base: tensor of the base model.
        down: A, (rank, in).
        up: B, (out, rank).
        scale: factor of the product.
        is_table: whether the tensor is a table of embeddings, to which the transposed product is added.
    """

    base: StoredTensor | None = None
    down: StoredTensor | None = None
    up: StoredTensor | None = None
    scale: float = 1.0
    is_table: bool = False

    def read(self) -> NDArray[Any]:
        """Return the merged tensor."""
        if self.base is None or self.down is None or self.up is None:
            raise ValueError(f"the merged tensor {self.name} lacks a part")
        down, up = (np.asarray(part.read()).astype(np.float32) for part in (self.down, self.up))
        product = (up @ down) * np.float32(self.scale)
        values = np.asarray(self.base.read()).astype(np.float32)
        return values + (product.T if self.is_table else product)

    def parts(self, elements: int) -> Iterator[NDArray[Any]]:
        """Yield the merged tensor's elements in their order."""
        flat = self.read().reshape(-1)
        for first in range(0, len(flat), elements):
            yield flat[first : first + elements]


def base_source(folder: Path) -> str | None:
    """Return SOURCE of the base model of an adapter's folder, or None if the folder has no adapter.

    Raises:
        CheckpointError: the adapter names no base model.
    """
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{folder / CONFIG} names no base_model_name_or_path: write the base model's folder or hub id"
        )
    return f"{base}@{revision}" if isinstance(revision, str) and revision and not Path(base).is_dir() else base


@contextlib.contextmanager
def with_base(folder: Path, fetch_base: Callable[[str], Checkout]) -> Iterator[tuple[Path, Checkout | None]]:
    """Give a folder with an adapter the configuration and the weights of its base model, as a temporary folder of links.

    Args:
        folder: the checkpoint, with or without an adapter.
        fetch_base: function that fetches a SOURCE.
    """
    source = base_source(folder)
    if source is None:
        yield folder, None
        return
    base = fetch_base(source)
    if (base.folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: the base model {source} is an adapter, too; merge the two with PEFT first")
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        own = [
            path for path in folder.iterdir() if path.name not in (SINGLE, INDEX, PICKLE, PICKLE_INDEX, "config.json")
        ]
        for path in own:
            (view / path.name).symlink_to(path.resolve())
        has_tokenizer = any(next(folder.glob(pattern), None) for pattern in TOKENIZER)
        patterns = ("config.json", "model*.safetensors", INDEX, "pytorch_model*.bin", PICKLE_INDEX)
        for pattern in (*patterns, *(() if has_tokenizer else TOKENIZER)):
            for path in base.folder.glob(pattern):
                if not (view / path.name).exists():
                    (view / path.name).symlink_to(path.resolve())
        try:
            yield view, base
        except (CardError, CheckpointError) as error:  # a message names the user's folder, not the temporary one
            raise type(error)(str(error).replace(str(view), str(folder))) from error


def merge_adapter(
    folder: Path, tensors: Mapping[str, StoredTensor], ignored: IgnoredKeys
) -> Mapping[str, StoredTensor]:
    """Return the tensors of a base model with those that the folder's adapter changes; the same ones without an adapter.

    Args:
        folder: folder with the adapter.
        tensors: tensors of the base model.
        ignored: keys that the user declares harmless.

    Raises:
        CheckpointError: the adapter is not a LoRA, or has a setting or a tensor that is not merged.
    """
    if not (folder / CONFIG).is_file():
        return tensors
    config = find_json(folder / CONFIG)
    _check_config(folder / CONFIG, config, ignored)
    parts = _read_parts(folder)
    merged = dict(tensors)
    for path, pair in parts.items():
        is_table = "lora_embedding_A" in pair
        names = ("lora_embedding_A", "lora_embedding_B") if is_table else ("lora_A", "lora_B")
        if pair.keys() != set(names):
            raise CheckpointError(
                f"{folder}: the adapter of {path} has {', '.join(sorted(pair))}; {names} were expected"
            )
        down, up = pair[names[0]], pair[names[1]]
        target = _find(folder, tensors, f"{path}.weight")
        shape = (up.shape[0], down.shape[1])
        if target.shape != (shape[::-1] if is_table else shape) or down.shape[0] != up.shape[1]:
            raise CheckpointError(
                f"{folder}: the adapter of {path} has the shapes {down.shape} and {up.shape}, its weight {target.shape}"
            )
        merged[target.name] = _Merged(
            target.name,
            target.shape,
            np.dtype(np.float32),
            target.file,
            target.start,
            base=target,
            down=down,
            up=up,
            scale=_scale(folder / CONFIG, config, path, down.shape[0]),
            is_table=is_table,
        )
    return merged


def _check_config(file: Path, config: Mapping[str, Any], ignored: IgnoredKeys) -> None:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{file}: peft_type is {config.get('peft_type')!r}; Fletcher merges LORA. Merge the adapter with PEFT "
            "(`merge_and_unload`), and convert the saved model"
        )
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise CheckpointError(
            f"{file}: init_lora_weights is {start!r}, which changed the base weights, too: merge the adapter with PEFT "
            "(`merge_and_unload`), and convert the saved model"
        )
    neutral: tuple[Any, ...] = (None, False, {}, [], "none")
    others = {key for key, value in config.items() if key not in APPLIED | HARMLESS and value not in neutral}
    if refused := ignored.refused(others):
        raise CheckpointError(
            f"{file}: {refused[0]} is {config[refused[0]]!r}, which Fletcher does not merge. Merge the adapter with PEFT "
            f"(`merge_and_unload`), or, if it changes no vector, declare that with --ignore-key {refused[0]}"
        )


def _read_parts(folder: Path) -> dict[str, dict[str, StoredTensor]]:
    """Return the tensors of the adapter by the module's path and by their kind."""
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} has {CONFIG} and neither {WEIGHTS[0]} nor {WEIGHTS[1]}: fetch it again")
    found: dict[str, dict[str, StoredTensor]] = {}
    for tensor in read_header(file) if file.suffix == ".safetensors" else read_torch_file(file):
        matched = re.fullmatch(r"base_model\.model\.(.+)\.(lora_(?:embedding_)?[AB])(?:\.weight)?", tensor.name)
        if matched is None or tensor.dtype.kind in "iub":
            raise CheckpointError(f"{file}: the tensor {tensor.name} is not a matrix of a LoRA, which alone is merged")
        found.setdefault(matched[1], {})[matched[2]] = tensor
    if not found:
        raise CheckpointError(f"{file} has no tensor")
    return found


def _find(folder: Path, tensors: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    """Return the base model's tensor, whose name may have the prefix of a head's model."""
    matches = [other for other in tensors if other == name or other.endswith(f".{name}")]
    if name in tensors:
        matches = [name]
    if len(matches) != 1:
        raise CheckpointError(
            f"{folder}: the adapter changes {name}, and its base model has {len(matches) or 'no'} tensors of that name"
        )
    return tensors[matches[0]]


def _scale(file: Path, config: Mapping[str, Any], path: str, rank: int) -> float:
    """Return alpha / rank, or alpha / √rank with rank-stabilized LoRA; patterns give single modules other numbers."""

    def number(key: str, pattern: str) -> float:
        patterns = config.get(pattern) or {}
        # `get_pattern_key` of peft/utils/other.py.
        found = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", path)), None)
        value = config.get(key, 8) if found is None else patterns[found]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{file}: {key} of {path} is {value!r}, where a positive number was expected")
        return float(value)

    if number("r", "rank_pattern") != rank:
        raise CheckpointError(f"{file} gives {path} the rank {number('r', 'rank_pattern'):g}, its tensors have {rank}")
    return number("lora_alpha", "alpha_pattern") / (math.sqrt(rank) if config.get("use_rslora") else rank)
