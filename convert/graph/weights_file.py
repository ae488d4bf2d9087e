"""Safetensors file of the weights that all graphs of one precision share, written one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from fletcher.runtime.artifact.manifest import FileInfo
from fletcher.runtime.artifact.tensors_file import TensorData, write_tensors
from fletcher.runtime.errors import CheckpointError

from ..checkpoint.tensors import Weight
from ..precision import FLOATS

__all__ = ["WeightsFile", "unwritten", "write_weights"]


class WeightsFile:
    """Safetensors file of weights, with the place of each tensor.

    Attributes:
        name: name of the file, without its folder.
        info: size and digest of the file.
    """

    def __init__(self, name: str, places: Mapping[str, tuple[int, int]], info: FileInfo) -> None:
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

    Raises:
        CheckpointError: a value of a weight is outside the range of its precision.
    """
    written = write_tensors(path, map(_tensor, weights))
    return WeightsFile(path.name, written.places, written.info)


def _tensor(weight: Weight) -> TensorData:
    kind = FLOATS[weight.precision]
    return TensorData(weight.name, kind.safetensors, kind.numpy.itemsize, tuple(weight.shape), partial(_parts, weight))


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
