"""`Checkpoint`: configuration and memory-mapped tensors of a checkpoint folder. It computes and guesses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .adapters import merge_adapter
from .ignored_keys import IgnoredKeys
from .json_files import read_json
from .task_adapters import merge_task
from .tokenizer_version import TokenizerLike
from .weights.files import read_weights
from .weights.stored import StoredTensor

__all__ = ["Checkpoint"]

#: Prefixes that wrappers around a model give to all its tensors: torch's DistributedDataParallel and `compile`, and
#: sentence-transformers' module before version 3.
WRAPPERS = ("module.", "_orig_mod.", "0.auto_model.", "auto_model.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Contents of a checkpoint folder.

    Attributes:
        folder: the folder.
        config: its `config.json`.
        tensors: its tensors by name, of all shards together.
        ignored: keys and files that the user declares harmless.
        tokenizer_like: version of transformers whose token ids the user chose. Default: the one that the files name.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    ignored: IgnoredKeys = field(default_factory=IgnoredKeys, repr=False, compare=False)
    tokenizer_like: TokenizerLike | None = None

    @classmethod
    def open(
        cls, folder: Path, ignored: IgnoredKeys | None = None, *, tokenizer_like: TokenizerLike | None = None
    ) -> Checkpoint:
        """Read the configuration and the headers of the files of weights.

        Args:
            folder: the checkpoint.
            ignored: keys and files that the user declares harmless. Default: none.
            tokenizer_like: version of transformers whose token ids the user chose.

        Raises:
            CheckpointError: a file is missing, truncated or malformed, or an adapter cannot be merged.
        """
        config = read_json(folder / "config.json")
        ignored = ignored or IgnoredKeys()
        tensors = merge_task(folder, _unwrap(read_weights(folder)), config)
        tensors = merge_adapter(folder, tensors, ignored)
        return cls(folder, config, tensors, ignored, tokenizer_like)


def _unwrap(tensors: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Return the tensors under the model's own names, if a wrapper gave all of them a prefix."""
    for prefix in WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            plain = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            return _unwrap({name: replace(tensor, name=name) for name, tensor in plain.items()})
    return tensors
