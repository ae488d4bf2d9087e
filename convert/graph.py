"""A small builder over `onnx.helper`: named nodes, lazily read weights, and one file of weights for a graph.

A node's output has the node's name, so a difference that verification finds can be named. It knows nothing of models.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fletcher.runtime.artifact import TensorInfo

from .weights import Weight

__all__ = ["GraphBuilder", "write_weights"]

OPSET = 24
IR_VERSION = 11  # the newest that ONNX Runtime 1.23 reads
#: Constants up to this many bytes lie in the graph: shape arithmetic and scalars, nothing a model learnt.
INLINE_BYTES = 256
#: Where the first tensor begins: a multiple of the widest vector register and of a cache line.
ALIGNMENT = 64


class GraphBuilder:
    """Collects nodes, weights and constants; `save` writes the model."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._names: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self.weights: dict[str, Weight] = {}
        self.inputs: list[TensorInfo] = []
        self.outputs: list[TensorInfo] = []

    def input(self, info: TensorInfo) -> str:
        """Declares an input; its name is the value's."""
        self._inputs.append(_value_info(info))
        self.inputs.append(info)
        return info.name

    def output(self, info: TensorInfo) -> None:
        """Declares that the value of that name leaves the graph."""
        self._outputs.append(_value_info(info))
        self.outputs.append(info)

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output, which has the node's name."""
        return self.nodes(operator, inputs, name, (name,), **attributes)[0]

    def nodes(
        self, operator: str, inputs: Sequence[str], name: str, outputs: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """Adds a node with several outputs."""
        if clash := self._names.intersection(outputs):
            raise ValueError(f"the graph {self._name} has a value {clash.pop()!r} already")
        self._names.update(outputs)
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return tuple(outputs)

    def weight(self, weight: Weight) -> str:
        """Uses a weight; the same one may be used many times."""
        known = self.weights.setdefault(weight.name, weight)
        if known.shape != weight.shape:
            raise ValueError(f"two weights of the graph {self._name} are called {weight.name!r}")
        return weight.name

    def constant(self, value: NDArray[np.generic] | Sequence[int] | int | float) -> str:
        """A small constant; ints are int64 and floats float32. Equal constants are one."""
        array = np.asarray(value)
        if not isinstance(value, np.ndarray | np.generic):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        if array.nbytes > INLINE_BYTES:
            raise ValueError(f"a constant of {array.nbytes} bytes belongs among the weights of {self._name}")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant/{len(self._constants)}"
            self._constants[key] = name
            self._initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def save(self, path: Path, places: WeightsFile) -> None:
        """Writes the model; its weights lie beside it, in the file that `write_weights` wrote.

        Raises:
            onnx.checker.ValidationError: the graph is malformed.
        """
        external = [places.reference(weight) for weight in self.weights.values()]
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, [*self._initializers, *external]
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fletcher"
        )
        path.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(path)  # by its path, since the checker looks for the weights beside it


class WeightsFile:
    """A safetensors file of weights: its name, and where each tensor lies in it."""

    def __init__(self, name: str, places: dict[str, tuple[int, int]]) -> None:
        self._name = name
        self._places = places

    def reference(self, weight: Weight) -> onnx.TensorProto:
        """An initializer whose data lie in this file."""
        offset, length = self._places[weight.name]
        tensor = onnx.TensorProto(name=weight.name, data_type=TensorProto.FLOAT, dims=weight.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def write_weights(path: Path, weights: Iterable[Weight]) -> WeightsFile:
    """Writes weights in float32 as safetensors, one at a time: the peak memory is the largest one's.

    The safetensors library wants all tensors at once, so the header, 8 bytes of length and a JSON object, is made here.
    """
    header: dict[str, object] = {"__metadata__": {"format": "np"}}
    ordered = sorted(weights, key=lambda weight: weight.name)
    end = 0
    spans = {}
    for weight in ordered:
        start, end = end, end + 4 * int(np.prod(weight.shape, dtype=np.int64))
        spans[weight.name] = (start, end)
        header[weight.name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for weight in ordered:
            values = np.ascontiguousarray(weight.load(), np.float32)
            if values.shape != weight.shape:
                raise ValueError(f"the weight {weight.name} should have shape {weight.shape}, and has {values.shape}")
            stream.write(values.data)
    base = 8 + len(text)
    return WeightsFile(path.name, {name: (base + start, stop - start) for name, (start, stop) in spans.items()})


def _value_info(info: TensorInfo) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(info.name, helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype)), info.shape)
