"""Safetensors file that is written one tensor at a time, and large ones a part at a time; the library needs all at once."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .manifest import FileInfo

__all__ = ["TensorData", "WrittenTensors", "write_tensors"]

#: Alignment of the first tensor in bytes: a multiple of the widest vector register and of a cache line.
ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class TensorData:
    """Tensor to write.

    Attributes:
        name: its name.
        kind: name of its element type in safetensors, such as `F32`.
        itemsize: bytes of an element.
        shape: its shape.
        parts: yields its bytes in their order, a part at a time.
    """

    name: str
    kind: str
    itemsize: int
    shape: tuple[int, ...]
    parts: Callable[[], Iterator[memoryview]]

    @property
    def size(self) -> int:
        """Number of its bytes."""
        return self.itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class WrittenTensors:
    """Written file.

    Attributes:
        places: offset and length of each tensor in the file, in bytes.
        info: size and digest of the file.
    """

    places: Mapping[str, tuple[int, int]]
    info: FileInfo


def write_tensors(path: Path, tensors: Iterable[TensorData]) -> WrittenTensors:
    """Write a file: 8 bytes of length, a JSON object, and the tensors.

    Raises:
        ValueError: the parts of a tensor are not as long as its shape says.
    """
    # The widest types first, so that every tensor begins at a multiple of its own element's size.
    ordered = sorted(tensors, key=lambda tensor: (-tensor.itemsize, tensor.name))
    header: dict[str, object] = {"__metadata__": {"format": "np"}}
    end, spans = 0, {}
    for tensor in ordered:
        start, end = end, end + tensor.size
        spans[tensor.name] = (start, tensor.size)
        header[tensor.name] = {"dtype": tensor.kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    head = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(head)
    # Hashed on another thread while the next part is read, laid out and written: two parts live at most.
    with path.open("wb") as stream, ThreadPoolExecutor(1, thread_name_prefix="fletcher-hash") as hasher:
        stream.write(head)
        hashed = hasher.submit(lambda: None)
        for tensor in ordered:
            written = 0
            for part in tensor.parts():
                hashed.result()
                hashed = hasher.submit(digest.update, part)
                written += stream.write(part)
            if written != tensor.size:
                raise ValueError(f"the weight {tensor.name} of shape {tensor.shape} has {written} bytes")
        hashed.result()
    places = {name: (len(head) + start, size) for name, (start, size) in spans.items()}
    return WrittenTensors(places, FileInfo(len(head) + end, digest.hexdigest()))
