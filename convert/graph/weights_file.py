"""Safetensors file of the weights that all graphs of one precision share, written one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from fletcher.runtime.artifact.manifest import FileInfo
from fletcher.runtime.errors import CheckpointError

from ..checkpoint.tensors import Weight
from ..precision import FLOATS

__all__ = ["WeightsFile", "unwritten", "write_weights"]

#: Alignment of the first tensor in bytes: a multiple of the widest vector register and of a cache line.
ALIGNMENT = 64


class WeightsFile:
    """Safetensors file of weights, with the place of each tensor.

    Attributes:
        name: name of the file, without its folder.
        info: size and digest of the file.
    """

    def __init__(self, name: str, places: dict[str, tuple[int, int]], info: FileInfo) -> None:
        self.name = name
        self.info = info
        self._places = places

    def reference(self, weight: Weight) -> onnx.TensorProto:
        """Return an initializer whose data are in this file."""
        offset, length = self._places[weight.name]
        tensor = onnx.TensorProto(name=weight.name, data_type=FLOATS[weight.precision].onnx, dims=weight.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def unwritten(weights: Iterable[Weight]) -> WeightsFile:
    """Return places of weights in a file that does not exist, for a graph whose weights are given in memory."""
    sizes = {weight.name: FLOATS[weight.precision].numpy.itemsize * math.prod(weight.shape) for weight in weights}
    return WeightsFile("memory", {name: (0, size) for name, size in sizes.items()}, FileInfo(0, ""))


def write_weights(path: Path, weights: Iterable[Weight]) -> WeightsFile:
    """Write weights as safetensors, each in its precision, one at a time, and large ones a part at a time.

    The safetensors library needs all tensors at once, so the header, 8 bytes of length and a JSON object, is written here.

    Raises:
        CheckpointError: a value of a weight is outside the range of its precision.
    """
    header: dict[str, object] = {"__metadata__": {"format": "np"}}
    # The widest types first, so that every tensor begins at a multiple of its own element's size.
    ordered = sorted(weights, key=lambda weight: (-FLOATS[weight.precision].numpy.itemsize, weight.name))
    end = 0
    spans = {}
    for weight in ordered:
        kind = FLOATS[weight.precision]
        start, end = end, end + kind.numpy.itemsize * int(np.prod(weight.shape, dtype=np.int64))
        spans[weight.name] = (start, end)
        header[weight.name] = {"dtype": kind.safetensors, "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    head = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(head)
    # Hashed on another thread while the next part is read, laid out and written: two parts live at most.
    with path.open("wb") as stream, ThreadPoolExecutor(1, thread_name_prefix="fletcher-hash") as hasher:
        stream.write(head)
        hashed = hasher.submit(lambda: None)
        for weight in ordered:
            written = 0
            for values in _parts(weight):
                hashed.result()
                hashed = hasher.submit(digest.update, values)
                written += stream.write(values)
            start, stop = spans[weight.name]
            if written != stop - start:
                raise ValueError(f"the weight {weight.name} of shape {weight.shape} has {written} bytes")
        hashed.result()
    places = {name: (len(head) + start, stop - start) for name, (start, stop) in spans.items()}
    return WeightsFile(path.name, places, FileInfo(len(head) + end, digest.hexdigest()))


def _parts(weight: Weight) -> Iterator[memoryview]:
    """Yield the bytes of a weight, in its precision."""
    for values in weight.parts():
        yield _bytes(weight, values)


def _bytes(weight: Weight, values: NDArray[np.float32]) -> memoryview:
    """Return a part of a weight in its precision."""
    kind = FLOATS[weight.precision]
    if weight.precision != "fp32" and values.size and max(values.max(), -values.min()) > kind.largest:
        raise CheckpointError(
            f"the weight {weight.name} holds {np.abs(values).max():.3g}, {weight.precision} ends at {kind.largest:.5g}: "
            "convert to bf16 or fp32 instead"
        )
    typed = np.ascontiguousarray(values.astype(kind.numpy, copy=False))
    return typed.reshape(-1).view(np.uint8).data
