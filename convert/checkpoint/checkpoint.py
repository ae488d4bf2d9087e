"""`Checkpoint`: configuration and memory-mapped safetensors of a checkpoint folder. It computes and guesses nothing."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import CheckpointError

from .ignored_keys import IgnoredKeys
from .json_files import read_json
from .tokenizer_version import TokenizerLike

__all__ = ["SINGLE", "Checkpoint", "StoredTensor"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

#: safetensors' names of the element types that a checkpoint's weights may have.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Tensor as it is stored.

    Attributes:
        name: name in the checkpoint.
        shape: its shape.
        dtype: its element type.
        file: safetensors file that holds it.
        start: offset of its first byte.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: Path
    start: int

    def read(self) -> NDArray[Any]:
        """Return the tensor, memory-mapped and read-only."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.file, self.dtype, "r", self.start, self.shape)


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
        """Read the configuration and the safetensors headers.

        Args:
            folder: the checkpoint.
            ignored: keys and files that the user declares harmless. Default: none.
            tokenizer_like: version of transformers whose token ids the user chose.

        Raises:
            CheckpointError: a file is missing, truncated or malformed.
        """
        config = read_json(folder / "config.json")
        tensors: dict[str, StoredTensor] = {}
        for file in _weight_files(folder):
            for tensor in read_header(file):
                if other := tensors.get(tensor.name):
                    raise CheckpointError(
                        f"the tensor {tensor.name} is in {other.file} and in {file}: remove one of them"
                    )
                tensors[tensor.name] = tensor
        return cls(folder, config, tensors, ignored or IgnoredKeys(), tokenizer_like)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        places = index.get("weight_map")
        if "metadata" not in index:
            raise CheckpointError(f"{folder / INDEX} has no metadata, without which transformers fails: fetch it again")
        if not isinstance(places, dict):
            raise CheckpointError(f"{folder / INDEX} has no weight_map, the list of the tensors' files: fetch it again")
        shards = sorted(set(places.values()), key=str)
        for shard in shards:
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise CheckpointError(f"{folder / INDEX} names the shard {shard!r}, which is not a file beside it")
            if not (folder / shard).is_file():
                raise CheckpointError(f"{folder} lacks {shard}, which {INDEX} names: fetch the checkpoint again")
        return [folder / shard for shard in shards]
    raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}: Fletcher reads safetensors only")


def read_header(file: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of a safetensors file, checked against its size; tied tensors come under each of their names.

    Source of the format: the README of github.com/huggingface/safetensors.

    Raises:
        CheckpointError: the file is truncated or malformed, or holds an element type that Fletcher does not read.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{file} is truncated or not a safetensors file: its header should have {length} bytes, "
                    f"the file has {size}. Fetch it again"
                )
            header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", {})
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise CheckpointError(
                    f"{file}: the tensor {name} has the element type {entry['dtype']}, which Fletcher does not read"
                )
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if any(not isinstance(number, int) or number < 0 for number in (*shape, begin, end)):
                raise CheckpointError(
                    f"{file} is malformed: the tensor {name} of shape {shape} lies from byte {begin} to {end}"
                )
            if 8 + length + end > size:
                raise CheckpointError(
                    f"{file} is truncated: the tensor {name} should end at byte {8 + length + end}, "
                    f"the file has {size}. Fetch it again"
                )
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise CheckpointError(
                    f"{file} is malformed: the tensor {name} of shape {shape} has {end - begin} bytes"
                )
            stored = StoredTensor(name, shape, dtype, file, 8 + length + begin)
            yield stored
            # Tied weights are stored once; `safetensors.torch.save_model` notes their other names in the metadata.
            for alias, target in metadata.items():
                if target == name and alias not in header:
                    yield replace(stored, name=alias)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as a safetensors file: {error}. Fetch it again") from error
