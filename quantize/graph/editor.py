"""`GraphEditor`: rewrites a graph of an artifact: its nodes, its mapped weights, and its new weights. It knows no scheme."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.artifact.manifest import FileInfo, Variant
from fletcher.runtime.artifact.tensors_file import TensorData, write_tensors
from fletcher.runtime.errors import ArtifactError

__all__ = ["CONTRIB", "GraphEditor", "write_graphs"]

#: Domain of ONNX Runtime's own operators.
CONTRIB = "com.microsoft"

#: Name of a type in safetensors, by its number in ONNX.
SAFETENSORS: dict[int, str] = {
    TensorProto.FLOAT: "F32",
    TensorProto.FLOAT16: "F16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT8: "I8",
    TensorProto.UINT8: "U8",
    TensorProto.INT32: "I32",
    TensorProto.INT64: "I64",
}

#: Bytes that are written at once.
PART = 16 << 20

#: Bytes of the smallest tensor outside the graph: shape inference can only read tensors inside.
SMALLEST_EXTERNAL = 256


class GraphEditor:
    """`GraphEditor`: a graph that is read from one folder and written to another.

    Attributes:
        nodes: nodes in topological order; replace the elements, then call `write_graphs`.
        weights: initializers by name.
        outputs: names of the graph's outputs.
        keep: returns an array with the elements of a new weight, in memory or in a file (`Spool.keep`).
    """

    def __init__(self, artifact: Artifact, variant: Variant) -> None:
        """Read the graph without its weights.

        Raises:
            ArtifactError: the graph cannot be read, or is not one that Fletcher writes.
            ChecksumError: the graph has another sha256 than the manifest states.
        """
        data = read_graph(artifact, variant)
        try:
            self._model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's errors have no base that onnx exports
            file = artifact.path / variant.file
            raise ArtifactError(f"{file} cannot be read ({error}): convert the checkpoint again") from error
        self._folder = artifact.path
        self.nodes: list[onnx.NodeProto] = list(self._model.graph.node)
        self.weights: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._new: dict[str, tuple[int, NDArray[Any]]] = {}
        self.keep: Callable[[NDArray[Any]], NDArray[Any]] = np.ascontiguousarray
        self.outputs: list[str] = [value.name for value in self._model.graph.output]

    def values(self, name: str) -> NDArray[Any]:
        """Return the elements of an initializer; elements outside the graph are memory-mapped."""
        if name in self._new:
            return self._new[name][1]
        tensor = self.weights[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return np.asarray(numpy_helper.to_array(tensor))
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        file = self._folder / place["location"]
        return np.memmap(file, dtype, "r", int(place["offset"]), tuple(tensor.dims))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an initializer."""
        return self._new[name][1].shape if name in self._new else tuple(self.weights[name].dims)

    def is_weight(self, name: str) -> bool:
        """Return whether a value is an initializer."""
        return name in self.weights or name in self._new

    def add(self, name: str, values: NDArray[Any], kind: int | None = None) -> str:
        """Add an initializer, unless one with this name was added before, and return its name.

        Args:
            name: name of the initializer.
            values: elements; those of bfloat16 as uint16.
            kind: number of the type in ONNX, for a type that numpy lacks.
        """
        if name not in self._new:
            kind = helper.np_dtype_to_tensor_dtype(values.dtype) if kind is None else kind
            self._new[name] = (kind, self.keep(values).reshape(values.shape))
        return name

    def consumers(self) -> Counter[str]:
        """Return the number of reads of each value, by nodes and as an output of the graph."""
        return Counter([name for node in self.nodes for name in node.input] + self.outputs)

    def expose(self, names: Sequence[str], kind: int = TensorProto.FLOAT) -> bytes:
        """Return the model with its present nodes and more outputs; its weights are in the artifact's folder.

        Args:
            names: names of the outputs.
            kind: number of their type in ONNX.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        for name in names:
            if name not in self.outputs:
                model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
        return bytes(model.SerializeToString())

    def inline(self) -> bytes:
        """Return the model with its new weights inside; the old weights are in the artifact's folder."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        for name, (kind, values) in self._new.items():
            tensor = TensorProto(name=name, data_type=kind, dims=values.shape, raw_data=values.tobytes())
            model.graph.initializer.append(tensor)
        if any(node.domain == CONTRIB for node in self.nodes):
            model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return bytes(model.SerializeToString())

    def external(self) -> dict[str, tuple[int, NDArray[Any]]]:
        """Return type and elements of the tensors for the weights file, by name: all that a node reads but tiny ones."""
        used = {name for node in self.nodes for name in node.input}
        tensors: dict[str, tuple[int, NDArray[Any]]] = {}
        for name, tensor in self.weights.items():
            if name in used and name not in self._new and tensor.data_location == TensorProto.EXTERNAL:
                tensors[name] = (tensor.data_type, self.values(name))
        for name, (kind, values) in self._new.items():
            if name in used and not _stays_inside(kind, values):
                tensors[name] = (kind, values)
        return tensors

    def save(self, graph: Path, weights: str, places: Mapping[str, tuple[int, int]]) -> None:
        """Write the graph without its weights file.

        Args:
            graph: the file.
            weights: name of the weights file beside it.
            places: offset and length, in bytes, of each tensor of `external` in the weights file.
        """
        used = {name for node in self.nodes for name in node.input}
        external = self.external()
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:]
        del model.graph.initializer[:]
        model.graph.node.extend(self.nodes)
        for name, tensor in self.weights.items():
            if name in used and name not in external and name not in self._new:
                model.graph.initializer.append(tensor)
        for name, (_, values) in self._new.items():
            if name in used and name not in external:
                model.graph.initializer.append(numpy_helper.from_array(values, name))
        for name, (kind, values) in external.items():
            tensor = TensorProto(name=name, data_type=kind, dims=values.shape)
            tensor.data_location = TensorProto.EXTERNAL
            offset, length = places[name]
            for key, value in (("location", weights), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            model.graph.initializer.append(tensor)
        if any(node.domain == CONTRIB for node in self.nodes) and not any(
            opset.domain == CONTRIB for opset in model.opset_import
        ):
            model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        graph.write_bytes(model.SerializeToString())


def write_graphs(
    editors: Mapping[Path, GraphEditor], weights: Path, tables: Mapping[str, NDArray[Any]] = MappingProxyType({})
) -> FileInfo:
    """Write graphs and the file of weights that they share, a part at a time; return size and digest of that file.

    Args:
        editors: editors by the graph's file, in the folder of the weights file.
        weights: the file of weights.
        tables: tensors for the file that no node reads, by name: the tables that the host looks up.
    """
    tensors: dict[str, tuple[int, NDArray[Any]]] = {
        name: (helper.np_dtype_to_tensor_dtype(values.dtype), values) for name, values in tables.items()
    }
    for editor in editors.values():
        tensors |= editor.external()
    written = write_tensors(weights, (_tensor(name, kind, values) for name, (kind, values) in tensors.items()))
    for file, editor in editors.items():
        editor.save(file, weights.name, written.places)
    return written.info


def _stays_inside(kind: int, values: NDArray[Any]) -> bool:
    """Return whether a new tensor stays in the graph's file; bfloat16, which numpy lacks, never does."""
    return values.nbytes < SMALLEST_EXTERNAL and kind != TensorProto.BFLOAT16


def _tensor(name: str, kind: int, values: NDArray[Any]) -> TensorData:
    return TensorData(name, SAFETENSORS[kind], values.itemsize, values.shape, partial(_parts, values))


def _parts(values: NDArray[Any]) -> Iterator[memoryview]:
    """Yield the bytes of an array, which may be a mapped file, a part at a time."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), PART):
        yield flat[start : start + PART].data
