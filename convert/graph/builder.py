"""Graph builder over `onnx.helper`: nodes get names and types when they are added, weights are read when they are written.

A node's output has the node's name, so that verification can name the node that differs. The builder knows no models.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives numpy the name bfloat16
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fletcher.runtime.artifact.manifest import TensorInfo

from ..checkpoint.tensors import Weight
from ..precision import FLOATS, FP32, Float, Precision
from .weights_file import WeightsFile, write_weights

__all__ = ["INLINE_BYTES", "GraphBuilder", "write_weights"]

#: Operator set to IR version: the newest that ONNX Runtime 1.23 reads, and what TensorRT's and CoreML's parsers know whole.
IR_VERSIONS = {24: 11, 20: 10}
#: Constants up to this many bytes are stored in the graph: shape arithmetic and scalars, not learned weights.
INLINE_BYTES = 256
#: Index of the input whose type is that of the output, for operators where it is not the first.
_TYPED_BY = {"Where": 1, "Range": 0}
_NEVER_FLOAT = frozenset(
    {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "NonZero", "Not", "Or", "Shape"}
)
_NUMPY_FLOATS: dict[str, Float] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class GraphBuilder:
    """Builder of a graph: collects nodes, weights and constants; `save` writes the model.

    Emitters give no types: each node computes in the type that the `Precision` has for its name, float inputs of another type
    are cast to it, and a `Cast` to float is a cast to that type.
    """

    def __init__(self, name: str, precision: Precision = FP32, opset: int = 24) -> None:
        """Create an empty graph.

        Args:
            name: name of the graph, for messages.
            precision: types of its nodes.
            opset: version of the standard operators, one of `IR_VERSIONS`.
        """
        self.precision = precision
        self._name = name
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._names: set[str] = set()
        self._floats: dict[str, Float] = {}
        self._declared: dict[str, Weight] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._float_constants: dict[str, NDArray[np.float32]] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self.weights: dict[str, Weight] = {}
        self.inputs: list[TensorInfo] = []
        self.outputs: list[TensorInfo] = []

    def input(self, info: TensorInfo) -> str:
        """Declare an input unless the same one is declared, and return its name."""
        if info in self.inputs:
            return info.name
        self._inputs.append(_value_info(info))
        self.inputs.append(info)
        if info.dtype in _NUMPY_FLOATS:
            self._floats[info.name] = _NUMPY_FLOATS[info.dtype]
        return info.name

    def output(self, info: TensorInfo) -> None:
        """Declare the value of that name an output of the graph."""
        self._outputs.append(_value_info(info))
        self.outputs.append(info)

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output, which has the node's name."""
        return self.nodes(operator, inputs, name, (name,), **attributes)[0]

    def nodes(
        self, operator: str, inputs: Sequence[str], name: str, outputs: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs."""
        precision = self.precision.of(operator, name)
        typed = [self._as(value, precision) if operator != "Cast" else value for value in inputs]
        decides = typed[_TYPED_BY.get(operator, 0)]
        if operator == "Cast":
            is_float = attributes["to"] == TensorProto.FLOAT
            attributes["to"] = FLOATS[precision].onnx if is_float else attributes["to"]
        else:
            is_float = operator not in _NEVER_FLOAT and decides in self._floats
        self._add(operator, typed, name, outputs, attributes)
        if is_float:
            self._floats.update(dict.fromkeys(outputs, precision))
        return tuple(outputs)

    def splice(
        self,
        nodes: Sequence[onnx.NodeProto],
        tensors: Sequence[onnx.TensorProto],
        weights: Sequence[Weight],
        result: str,
    ) -> None:
        """Add nodes of another graph, which compute in fp32.

        Args:
            nodes: nodes in the order of computation; their inputs are among them, or are values of this graph.
            tensors: their small constants.
            weights: their other constants.
            result: name of the float value that nodes of this graph may use.
        """
        values = [name for node in nodes for name in node.output if name]
        names = [*values, *(tensor.name for tensor in tensors), *(weight.name for weight in weights)]
        if clash := self._names.intersection(names):
            raise ValueError(f"the graph {self._name} has a value {clash.pop()!r} already")
        self._names.update(names)
        self._nodes += nodes
        self._initializers |= {tensor.name: tensor for tensor in tensors}
        self.weights |= {weight.name: weight for weight in weights}
        self._floats[result] = "fp32"

    def replace(
        self,
        names: Collection[str],
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        **attributes: Any,
    ) -> None:
        """Put one node in place of several, at the place of the first; it gets the last one's name.

        Args:
            names: names of the nodes, in the order of computation.
            operator: operator of the new node.
            inputs: its inputs, which are there before the first node, in the types that the new node takes.
            outputs: all outputs of the nodes that other nodes read; their types stay.
            **attributes: attributes, and the domain.
        """
        places = [place for place, node in enumerate(self._nodes) if node.name in names]
        if len(places) != len(names):
            raise ValueError(f"the graph {self._name} does not have each of the nodes {', '.join(names)} once")
        name = self._nodes[places[-1]].name
        for place in reversed(places[1:]):
            del self._nodes[place]
        self._nodes[places[0]] = helper.make_node(operator, inputs, outputs, name=name, **attributes)

    @property
    def written(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes, in the order of computation."""
        return tuple(self._nodes)

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return self._opset

    @property
    def operators(self) -> set[tuple[str, str]]:
        """Domain and name of every operator used."""
        return {(node.domain, node.op_type) for node in self._nodes}

    @property
    def node_names(self) -> list[str]:
        """Names of the nodes, in the order of computation."""
        return [node.name for node in self._nodes]

    @property
    def float_values(self) -> dict[str, Float]:
        """Type of each float value that a node computes, in the order of computation."""
        return {value: self._floats[value] for node in self._nodes for value in node.output if value in self._floats}

    def weight(self, weight: Weight) -> str:
        """Declare a weight, and return its name; the same weight may be declared many times."""
        declared = self._declared.setdefault(weight.name, weight)
        if declared.shape != weight.shape:
            raise ValueError(f"two weights of the graph {self._name} are called {weight.name!r}")
        return weight.name

    def table(self, weight: Weight) -> str:
        """Add a weight that only the host reads, and return its name in the file of weights."""
        return self._stored(weight, self.precision.name)

    def constant(self, value: NDArray[np.generic] | Sequence[int] | int | float) -> str:
        """Add a small constant, and return its name: ints are int64, floats have the type of the node that uses them."""
        array = np.asarray(value)
        if not isinstance(value, np.ndarray | np.generic):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        if array.nbytes > INLINE_BYTES:
            raise ValueError(f"a constant of {array.nbytes} bytes belongs among the weights of {self._name}")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant/{len(self._constants)}"
            if array.dtype.kind == "f":
                self._float_constants[name] = array.astype(np.float32)
            else:
                self._initializers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def model(self, places: WeightsFile) -> onnx.ModelProto:
        """Return the model, whose weights are in the file that `write_weights` wrote."""
        used = {value for node in self._nodes for value in node.input}
        external = [places.reference(weight) for name, weight in self.weights.items() if name in used]
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, [*self._initializers.values(), *external]
        )
        opsets = [helper.make_opsetid("", self._opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in self._nodes} - {""})]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSIONS[self._opset], producer_name="fletcher"
        )

    def save(self, path: Path, places: WeightsFile, *, check: bool = True) -> None:
        """Write the model beside its weights.

        Args:
            path: file to write.
            places: file of the weights.
            check: whether onnx's checker reads the model. It needs megabytes; a session that is opened next checks as much.

        Raises:
            onnx.checker.ValidationError: the graph is malformed.
        """
        path.write_bytes(self.model(places).SerializeToString(deterministic=True))
        if check:
            onnx.checker.check_model(path)  # by its path: the checker reads the weights beside it

    def _add(
        self, operator: str, inputs: Sequence[str], name: str, outputs: Sequence[str], attributes: dict[str, Any]
    ) -> None:
        if clash := self._names.intersection(outputs):
            raise ValueError(f"the graph {self._name} has a value {clash.pop()!r} already")
        self._names.update(outputs)
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))

    def _as(self, value: str, precision: Float) -> str:
        """Return the name of a float value in a type: a weight stored in it, a constant of it, or a cast to it."""
        if value in self._float_constants:
            return self._float_constant(value, precision)
        if value in self._declared:
            value = self._stored(self._declared[value], self.precision.stored(precision))
        if self._floats.get(value, precision) == precision:
            return value
        cast = f"{value}/{precision}"
        if cast not in self._names:
            self._add("Cast", [value], cast, [cast], {"to": FLOATS[precision].onnx})
            self._floats[cast] = precision
        return cast

    def _stored(self, weight: Weight, precision: Float) -> str:
        """Return the name of the stored weight; if its type is not the file's, the name ends with the type."""
        name = weight.name if precision == self.precision.name else f"{weight.name}.{precision}"
        self.weights.setdefault(name, replace(weight, name=name, precision=precision))
        self._floats[name] = precision
        return name

    def _float_constant(self, name: str, precision: Float) -> str:
        values, kind = self._float_constants[name], FLOATS[precision]
        if np.abs(values).max() > kind.largest:
            raise ValueError(f"the constant {values} of {self._name} is more than {precision} can hold")
        typed = name if precision == "fp32" else f"{name}/{precision}"
        if typed not in self._initializers:
            self._initializers[typed] = numpy_helper.from_array(values.astype(kind.numpy), typed)
            self._floats[typed] = precision
        return typed


def _value_info(info: TensorInfo) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(info.name, helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype)), info.shape)
