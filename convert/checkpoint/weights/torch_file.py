"""Tensors of files that `torch.save` wrote: zip archives (since torch 1.6), and the older sequence of pickles.

No code of a file is run (`pickle_values.py`), and no tensor is copied: the bytes of a tensor lie uncompressed in the file.

Source of both formats: torch/serialization.py (`_save`, `_legacy_save`) and torch/_utils.py (`_rebuild_tensor_v2`).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from fletcher.runtime.errors import CheckpointError

from .pickle_values import Name, PickleReader
from .stored import StoredTensor

__all__ = ["read_torch_file"]

#: Element types by the name of torch's storage class.
STORAGES: Mapping[str, np.dtype[Any]] = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}

#: First number of the older format, and the version after it.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

#: Largest pickle that is read, in bytes: the names and shapes of 100,000 tensors have about 30 MB.
MAX_PICKLE = 100_000_000


@dataclass(frozen=True, slots=True)
class _Storage:
    """Array of elements outside the pickle."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    """Tensor: a view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(file: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of a state dict that `torch.save` wrote, checked against the file's size.

    Raises:
        CheckpointError: the file is damaged, holds something else than tensors by name, or names anything else; no code of it
            is run.
    """
    try:
        with file.open("rb") as stream:
            values, starts = _read_zip(file, stream) if zipfile.is_zipfile(stream) else _read_legacy(file, stream)
        size = file.stat().st_size
    except (OSError, zipfile.BadZipFile, struct.error, OverflowError, NotImplementedError) as error:
        raise CheckpointError(f"{file} cannot be read as a file of torch: {error}. Fetch it again") from error
    for name, view in _state_dict(file, values).items():
        yield _locate(file, name, view, starts, size)


@dataclass(slots=True)
class _Storages:
    """Storages that a pickle names, by their key."""

    file: Path
    found: dict[str, _Storage] = field(default_factory=dict)

    def read(self, identifier: Any) -> _Storage:
        match identifier:
            case ("storage", Name(kind), str(key), str(), int(count)) if kind in STORAGES and count >= 0:
                pass
            case ("storage", Name(kind), str(key), str(), int(count), None) if kind in STORAGES and count >= 0:
                pass
            case _:
                raise CheckpointError(f"{self.file} is not read: it has a storage that Fletcher does not know")
        storage = _Storage(key, STORAGES[kind], count)
        if self.found.setdefault(key, storage) != storage:
            raise CheckpointError(f"{self.file} is damaged: the storage {key[:60]} has two types. Fetch it again")
        return storage


def _reader(file: Path, storages: _Storages) -> PickleReader:
    functions = {
        "collections.OrderedDict": _ordered,
        "torch._utils._rebuild_tensor": _rebuild,
        "torch._utils._rebuild_tensor_v2": _rebuild,
        "torch._utils._rebuild_parameter": lambda arguments: arguments[0],
        "torch.Size": lambda arguments: tuple(arguments[0]),
    }
    return PickleReader(file, functions, frozenset(STORAGES), storages.read)


def _ordered(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments not in ((), ([],)):
        raise ValueError("an OrderedDict with items of its own")
    return {}


def _rebuild(arguments: tuple[Any, ...]) -> _View:
    storage, offset, shape, strides = arguments[:4]
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise ValueError("a tensor with a size that is not a number")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _state_dict(file: Path, values: Any) -> dict[str, _View]:
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds {type(values).__name__}, where tensors by name were expected")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, _View):
            raise CheckpointError(
                f"{file} holds more than tensors: {str(name)[:60]!r} is a {type(value).__name__.strip('_')}. It is a "
                "checkpoint of a training, not of a model: save the model's state dict alone"
            )
    return values


def _locate(file: Path, name: str, view: _View, starts: Mapping[str, tuple[int, int]], size: int) -> StoredTensor:
    """Return the place of a tensor in the file.

    Args:
        file: the file.
        name: name of the tensor.
        view: the tensor.
        starts: offset and length of each storage, in bytes.
        size: bytes of the file.
    """
    storage, width = view.storage, view.storage.dtype.itemsize
    start, length = starts.get(storage.key, (size, 0))
    last = view.offset + sum((count - 1) * step for count, step in zip(view.shape, view.strides, strict=True))
    if 0 not in view.shape and (last >= storage.count or (last + 1) * width > length or start + length > size):
        raise CheckpointError(
            f"{file} is truncated or damaged: the tensor {name} ends after its storage. Fetch it again"
        )
    contiguous = tuple(math.prod(view.shape[axis + 1 :]) for axis in range(len(view.shape)))
    # The stride of an axis of one element is arbitrary.
    plain = all(
        count == 1 or one == other for count, one, other in zip(view.shape, view.strides, contiguous, strict=True)
    )
    return StoredTensor(
        name, view.shape, storage.dtype, file, start + view.offset * width, None if plain else view.strides
    )


def _read_zip(file: Path, stream: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Return the pickled value of a zip archive, and offset and length of each storage."""
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(entries) != len(archive.infolist()):
            raise CheckpointError(f"{file} is a zip archive, but not one of torch.save with one data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if (order := entries.get(f"{root}byteorder")) is not None and archive.read(order)[:6] != b"little":
            raise CheckpointError(f"{file} holds numbers in big-endian order, which Fletcher does not read")
        entry = entries[pickles[0]]
        if entry.file_size > MAX_PICKLE:
            raise CheckpointError(f"{file}: its data.pkl has {entry.file_size} bytes, {MAX_PICKLE} are read at most")
        storages = _Storages(file)
        values = _reader(file, storages).read(io.BytesIO(archive.read(entry)))
        starts = {}
        for key in storages.found:
            part = entries.get(f"{root}data/{key}")
            if part is None or part.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"{file} lacks the storage {key[:60]}, or has it compressed. Fetch it again")
            stream.seek(part.header_offset)
            header = stream.read(30)  # its fields have other lengths than in the archive's directory
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            starts[key] = (part.header_offset + 30 + name_length + extra_length, part.file_size)
        return values, starts


def _read_legacy(file: Path, stream: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Return the pickled value of torch's older format, and offset and length of each storage."""
    stream.seek(0)
    storages = _Storages(file)
    reader = _reader(file, storages)
    if reader.read(stream) != MAGIC or reader.read(stream) != PROTOCOL:
        raise CheckpointError(f"{file} is neither a zip archive nor a file of torch.save. Fetch it again")
    system = reader.read(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"{file} holds numbers in big-endian order, which Fletcher does not read")
    values = reader.read(stream)
    starts = {}
    for key in reader.read(stream):
        (count,) = struct.unpack("<q", stream.read(8))
        storage = storages.found.get(key) if isinstance(key, str) else None
        if storage is None or count != storage.count:
            raise CheckpointError(f"{file} is damaged: its storages are not those of its tensors. Fetch it again")
        length = count * storage.dtype.itemsize
        starts[key] = (stream.tell(), length)
        stream.seek(length, io.SEEK_CUR)
    return values, starts
