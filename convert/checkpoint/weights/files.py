"""Files that hold a checkpoint's weights, in transformers' order: safetensors, shards of it, a pickle, shards of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fletcher.model_zoo.sources.lfs import is_pointer, pointer_message
from fletcher.runtime.errors import CheckpointError

from ..json_files import read_json
from .safetensors import read_header
from .stored import StoredTensor
from .torch_file import read_torch_file

__all__ = ["INDEX", "PICKLE", "SINGLE", "has_pickles", "read_weights"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder by name, of all shards together.

    Raises:
        CheckpointError: a file is missing, truncated or malformed, or names something else than tensors.
    """
    tensors: dict[str, StoredTensor] = {}
    for single, index in ((SINGLE, INDEX), (PICKLE, PICKLE_INDEX)):
        if (folder / single).is_file():
            for tensor in _read(folder / single):
                _add(tensors, tensor)
            return tensors
        if (folder / index).is_file():
            places = _read_index(folder / index)
            _check_surplus(folder, index, set(places.values()))
            for shard in sorted(set(places.values())):
                for tensor in _read(folder / shard):
                    _add(tensors, tensor)
            _check_complete(folder / index, places, tensors)
            return tensors
    raise CheckpointError(f"{folder} has no weights: neither {SINGLE}, {INDEX}, {PICKLE} nor {PICKLE_INDEX}")


def has_pickles(folder: Path) -> bool:
    """Return whether the weights of a folder are those of a pickle."""
    names = (PICKLE, PICKLE_INDEX)
    return not any((folder / name).is_file() for name in (SINGLE, INDEX)) and any(
        (folder / name).is_file() for name in names
    )


def _read(file: Path) -> Iterator[StoredTensor]:
    if is_pointer(file):
        raise CheckpointError(pointer_message(file))
    return read_header(file) if file.suffix == ".safetensors" else read_torch_file(file)


def _add(tensors: dict[str, StoredTensor], tensor: StoredTensor) -> None:
    if other := tensors.get(tensor.name):
        raise CheckpointError(f"the tensor {tensor.name} is in {other.file} and in {tensor.file}: remove one of them")
    tensors[tensor.name] = tensor


def _read_index(file: Path) -> Mapping[str, str]:
    """Return the shard of each tensor."""
    folder, index = file.parent, read_json(file)
    places = index.get("weight_map")
    if "metadata" not in index:
        raise CheckpointError(f"{file} has no metadata, without which transformers fails: fetch it again")
    if not isinstance(places, dict):
        raise CheckpointError(f"{file} has no weight_map, the list of the tensors' files: fetch it again")
    for shard in sorted(set(map(str, places.values()))):
        if shard not in places.values() or Path(shard).name != shard:
            raise CheckpointError(f"{file} names the shard {shard!r}, which is not a file beside it")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder} lacks {shard}, which {file.name} names: fetch the checkpoint again")
    return places


def _check_surplus(folder: Path, index: str, named: set[str]) -> None:
    """Refuse shards that the index does not name: they are left of another version of the checkpoint, or the index is."""
    stem, suffix = index.removesuffix(".index.json").rsplit(".", 1)
    surplus = sorted({file.name for file in folder.glob(f"{stem}-*-of-*.{suffix}")} - named)
    if surplus:
        raise CheckpointError(
            f"{folder} has {', '.join(surplus[:5])}, which {index} does not name: the files are of two versions of the "
            "checkpoint. Fetch it again, or take the surplus files out of a copy"
        )


def _check_complete(file: Path, places: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    for name, shard in places.items():
        if name not in tensors or tensors[name].file.name != shard:
            raise CheckpointError(
                f"{file} says that {shard} has the tensor {name}, and it has not: the files are of two versions of the "
                "checkpoint. Fetch it again"
            )
