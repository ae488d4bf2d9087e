"""`check_graph`: walk through a graph's file, and reject everything that Fletcher does not write, before a provider opens it.

A graph of a stranger is input for parsers and kernels in C++. It could read files or memory of this process as weights, or
run loops. So the walk accepts the fields of ONNX that Fletcher's graphs have, and rejects all others, known and unknown:

- tensors outside the graph are spans of the variant's own weights, and have as many bytes as their shape says;
- nodes have operators of `operators.py`, and no subgraphs;
- there are no functions, no metadata, no sparse tensors, no tensors of strings;
- names are text without control characters.

Source of the field numbers: onnx/onnx.proto of ONNX 1.20 (IR version 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from ...errors import ArtifactError
from ..manifest import Variant
from .operators import allowed_operators
from .wire import Field, read_fields, read_name, read_packed

__all__ = ["LARGEST_GRAPH", "check_graph"]

#: Largest file of a graph in bytes. Weights are outside; the graph of bge-m3, with 24 layers, has less than 1 MB.
LARGEST_GRAPH: Final = 64 << 20

#: Largest number of nodes. Two dozen layers have about a thousand.
MOST_NODES: Final = 100_000

#: Elements of the largest tensor, 2^40: more do not fit into a machine.
MOST_ELEMENTS: Final = 1 << 40

#: Width of a number in a packed list that is a varint.
VARINTS: Final = 1

#: Versions of the operator sets, by domain, and the newest version of the file format.
OPERATOR_SETS: Mapping[str, range] = MappingProxyType(
    {"": range(13, 25), "com.microsoft": range(1, 2), "fletcher": range(1, 2)}
)
NEWEST_FORMAT: Final = 11

#: Bytes of an element, by the number of the type: only types of numbers.
BYTES: Mapping[int, int] = MappingProxyType(
    {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
)


def check_graph(data: bytes, variant: Variant, weights_size: int) -> None:
    """Raise an error unless Fletcher could have written the graph.

    Args:
        data: the file.
        variant: the variant that the graph belongs to.
        weights_size: bytes of the variant's file of weights.

    Raises:
        ArtifactError: the file is not a graph, or has parts that Fletcher does not write.
    """
    try:
        _Walk(data, variant, weights_size).model()
    except ArtifactError as error:
        raise ArtifactError(
            f"{variant.file} is not a graph that Fletcher writes ({error}), so it is not opened: convert the checkpoint "
            "again, or ask for the artifact's origin"
        ) from None


class _Walk:
    """One walk through the file of a graph."""

    def __init__(self, data: bytes, variant: Variant, weights_size: int) -> None:
        self._data = data
        self._variant = variant
        self._weights = variant.weights
        self._weights_size = weights_size
        self._operators = allowed_operators(variant)
        self._nodes = 0

    def model(self) -> None:
        """Check `ModelProto`."""
        if len(self._data) > LARGEST_GRAPH:
            raise ArtifactError(f"it has {len(self._data)} bytes, at most {LARGEST_GRAPH} are allowed")
        one = self._message(0, len(self._data), _MODEL, "model")
        if _GRAPH not in one:
            raise ArtifactError("it has no graph")
        if one.get(_IR_VERSION, 0) > NEWEST_FORMAT:
            raise ArtifactError(f"its format has the version {one[_IR_VERSION]}, at most {NEWEST_FORMAT} is written")

    def _message(self, start: int, end: int, known: Mapping[int, _Rule], where: str) -> dict[int, int]:
        """Check the fields of a message by rules, and return the values of the fields that may appear once."""
        found: dict[int, int] = {}
        for field in read_fields(self._data, start, end):
            rule = known.get(field[0])
            if rule is None:
                raise ArtifactError(f"a {where} has the field {field[0] >> 3}")
            if rule.once:
                # A second one would be merged with the first, and readers differ in what remains of the two.
                if field[0] in found:
                    raise ArtifactError(f"a {where} has the field {field[0] >> 3} twice")
                found[field[0]] = field[1]
            if rule.check is not None:
                rule.check(self, field)
        return found

    def name(self, field: Field) -> None:
        """Check that a span is a name."""
        read_name(self._data, field[1], field[2])

    def graph(self, field: Field) -> None:
        """Check `GraphProto`."""
        data = self._data
        inputs: list[str] = []
        outputs: list[str] = []
        for key, start, end in read_fields(data, field[1], field[2]):
            if key == _NODE:
                self._node(start, end)
            elif key == _INITIALIZER:
                self._tensor(start, end)
            elif key in (_INPUT, _OUTPUT):
                (inputs if key == _INPUT else outputs).append(self._value(start, end))
            elif key in (_VALUE_INFO, _GRAPH_NAME):
                if key == _VALUE_INFO:
                    self._value(start, end)
                else:
                    read_name(data, start, end)
            else:
                raise ArtifactError(f"a graph has the field {key >> 3}")
        variant = self._variant
        for kind, names, stated in (("input", inputs, variant.inputs), ("output", outputs, variant.outputs)):
            if sorted(names) != sorted(info.name for info in stated):
                raise ArtifactError(
                    f"its {kind}s are {', '.join(names) or 'none'}, and the manifest says "
                    f"{', '.join(info.name for info in stated) or 'none'}"
                )

    def operator_set(self, field: Field) -> None:
        """Check `OperatorSetIdProto`."""
        domain, version = "", 0
        for key, start, end in read_fields(self._data, field[1], field[2]):
            if key == _SET_DOMAIN:
                domain = read_name(self._data, start, end)
            elif key == _SET_VERSION:
                version = start
            else:
                raise ArtifactError(f"an operator set has the field {key >> 3}")
        if version not in OPERATOR_SETS.get(domain, ()):
            raise ArtifactError(f"it has the operator set {domain or 'ai.onnx'!r} in version {version}")

    def _node(self, start: int, end: int) -> None:
        """Check `NodeProto`."""
        data = self._data
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise ArtifactError(f"it has more than {MOST_NODES} nodes")
        operator: str | None = None
        domain: str | None = None
        for key, first, last in read_fields(data, start, end):
            if key in _NODE_NAMES:
                name = read_name(data, first, last)
                if key == _OPERATOR:
                    if operator is not None:
                        raise ArtifactError("a node has two operators")
                    operator = name
                elif key == _DOMAIN:
                    if domain is not None:
                        raise ArtifactError("a node has two domains")
                    domain = name
            elif key == _ATTRIBUTE:
                self._attribute(first, last)
            else:
                raise ArtifactError(f"a node has the field {key >> 3}")
        if (domain or "", operator) not in self._operators:
            shown = f"{domain}.{operator}" if domain else operator
            raise ArtifactError(f"the operator {shown} is not one of the target {self._variant.target}")

    def _attribute(self, start: int, end: int) -> None:
        """Check `AttributeProto`: a number, a text, a tensor, or a list of numbers."""
        for key, first, last in read_fields(self._data, start, end):
            if key == _ATTRIBUTE_NAME:
                read_name(self._data, first, last)
            elif key == _ATTRIBUTE_TENSOR:
                self._tensor(first, last, inside=True)
            elif key not in _ATTRIBUTE_PLAIN:
                raise ArtifactError(f"an attribute has the field {key >> 3}, such as a graph inside a node")
            elif key in _ATTRIBUTE_LISTS:
                self._list(_ATTRIBUTE_LISTS[key], first, last)

    def _value(self, start: int, end: int) -> str:
        """Check `ValueInfoProto`, and return its name."""
        name = None
        for key, first, last in read_fields(self._data, start, end):
            if key == _VALUE_NAME and name is None:
                name = read_name(self._data, first, last)
            elif key == _VALUE_TYPE:
                self._message(first, last, _TYPE, "type")
            else:
                raise ArtifactError(f"a value has the field {key >> 3}")
        return name or ""

    def tensor_type(self, field: Field) -> None:
        """Check `TypeProto.Tensor`."""
        self._message(field[1], field[2], _TENSOR_TYPE, "tensor's type")

    def shape(self, field: Field) -> None:
        """Check `TensorShapeProto`."""
        self._message(field[1], field[2], _SHAPE, "shape")

    def dimension(self, field: Field) -> None:
        """Check `TensorShapeProto.Dimension`: a number or a name."""
        self._message(field[1], field[2], _DIMENSION, "dimension")

    def _tensor(self, start: int, end: int, *, inside: bool = False) -> None:
        """Check `TensorProto`: its type, and that its elements are in the graph or are a span of the weights.

        Args:
            start, end: span of the message.
            inside: whether the elements must be in the graph.
        """
        data = self._data
        dims: list[int] = []
        entries: list[Field] = []
        name, kind, size = "", 0, 0
        external = listed = False
        seen = set()
        for key, first, last in read_fields(data, start, end):
            if key in _TENSOR_ONCE:
                if key in seen:
                    raise ArtifactError(f"a tensor has the field {key >> 3} twice")
                seen.add(key)
            if key == _DIMS_PACKED:
                dims += read_packed(data, first, last)
            elif key == _DIM:
                dims.append(first)
            elif key == _DATA_TYPE:
                kind = first
            elif key == _TENSOR_NAME:
                name = read_name(data, first, last)
            elif key == _RAW:
                size += last - first
            elif key == _EXTERNAL:
                entries.append((key, first, last))
            elif key == _LOCATION:
                external = first == 1
                if first > 1:
                    raise ArtifactError(f"the tensor {name} has the location {first}")
            elif key not in _TENSOR_LISTS:
                raise ArtifactError(f"a tensor has the field {key >> 3}")
            else:
                listed = True
                if _TENSOR_LISTS[key]:
                    self._list(_TENSOR_LISTS[key], first, last)
        if kind not in BYTES:
            raise ArtifactError(f"the tensor {name} has the element type {kind}")
        if any(dim > MOST_ELEMENTS for dim in dims) or math.prod(dims) > MOST_ELEMENTS:
            raise ArtifactError(f"the tensor {name} has the shape {dims}")
        expected = math.prod(dims) * BYTES[kind]
        if external != bool(entries):
            raise ArtifactError(f"the tensor {name} says in two ways where its elements are")
        if external:
            if inside or listed or _RAW in seen:
                raise ArtifactError(f"the tensor {name} may not be outside the graph")
            self._span(name, entries, expected)
        elif _RAW in seen and size != expected:
            raise ArtifactError(f"the tensor {name} has {size} bytes, its shape needs {expected}")

    def _list(self, width: int, start: int, end: int) -> None:
        """Check a packed list of varints, or of numbers of a fixed width in bytes."""
        if width == VARINTS:
            read_packed(self._data, start, end)
        elif (end - start) % width:
            raise ArtifactError(f"the list at byte {start} ends within a number")

    def _span(self, name: str, entries: list[Field], expected: int) -> None:
        """Check that the elements of a tensor outside the graph are a span of the variant's weights."""
        place: dict[str, str] = {}
        for _, start, end in entries:
            key = value = ""
            for field, first, last in read_fields(self._data, start, end):
                if field == _ENTRY_KEY:
                    key = read_name(self._data, first, last)
                elif field == _ENTRY_VALUE:
                    value = read_name(self._data, first, last)
                else:
                    raise ArtifactError(f"the place of the tensor {name} has the field {field >> 3}")
            if key in place:
                raise ArtifactError(f"the tensor {name} has two places")
            place[key] = value
        if set(place) != {"location", "offset", "length"}:
            raise ArtifactError(f"the tensor {name} is outside the graph, with {', '.join(sorted(place))}")
        if place["location"] != self._weights:
            raise ArtifactError(f"the tensor {name} is in {place['location']!a}, not in {self._weights}")
        numbers = [place["offset"], place["length"]]
        if not all(number.isascii() and number.isdigit() and len(number) <= 16 for number in numbers):
            raise ArtifactError(f"the tensor {name} is at {numbers[0]!a} with {numbers[1]!a} bytes")
        offset, length = map(int, numbers)
        if length != expected:
            raise ArtifactError(f"the tensor {name} has {length} bytes of weights, its shape needs {expected}")
        if offset + length > self._weights_size:
            raise ArtifactError(f"the tensor {name} ends behind the {self._weights_size} bytes of {self._weights}")


class _Rule:
    """Rule for a field of a message: whether it may appear once only, and the check of its value."""

    __slots__ = ("check", "once")

    def __init__(self, check: Callable[[_Walk, Field], None] | None = None, *, once: bool = True) -> None:
        self.check = check
        self.once = once


# Keys of fields: number << 3 | wire type.

_IR_VERSION, _GRAPH = 1 << 3, 7 << 3 | 2
_MODEL: Mapping[int, _Rule] = MappingProxyType(
    {
        _IR_VERSION: _Rule(),
        2 << 3 | 2: _Rule(_Walk.name),  # producer_name
        3 << 3 | 2: _Rule(_Walk.name),  # producer_version
        _GRAPH: _Rule(_Walk.graph),
        8 << 3 | 2: _Rule(_Walk.operator_set, once=False),
    }
)

# A type is that of a tensor: no sequences, maps and opaque types.
_TYPE: Mapping[int, _Rule] = MappingProxyType({1 << 3 | 2: _Rule(_Walk.tensor_type)})
_TENSOR_TYPE: Mapping[int, _Rule] = MappingProxyType({1 << 3: _Rule(), 2 << 3 | 2: _Rule(_Walk.shape)})
_SHAPE: Mapping[int, _Rule] = MappingProxyType({1 << 3 | 2: _Rule(_Walk.dimension, once=False)})
_DIMENSION: Mapping[int, _Rule] = MappingProxyType({1 << 3: _Rule(), 2 << 3 | 2: _Rule(_Walk.name)})

_NODE, _GRAPH_NAME, _INITIALIZER = 1 << 3 | 2, 2 << 3 | 2, 5 << 3 | 2
_INPUT, _OUTPUT, _VALUE_INFO = 11 << 3 | 2, 12 << 3 | 2, 13 << 3 | 2

_SET_DOMAIN, _SET_VERSION = 1 << 3 | 2, 2 << 3

_OPERATOR, _DOMAIN, _ATTRIBUTE = 4 << 3 | 2, 7 << 3 | 2, 5 << 3 | 2
#: Inputs, outputs, name, operator and domain of a node.
_NODE_NAMES = frozenset({1 << 3 | 2, 2 << 3 | 2, 3 << 3 | 2, _OPERATOR, _DOMAIN})

_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR = 1 << 3 | 2, 5 << 3 | 2
#: Of an attribute: f, i, s, floats and ints, each also packed, and the type.
_ATTRIBUTE_PLAIN = frozenset({2 << 3 | 5, 3 << 3, 4 << 3 | 2, 7 << 3 | 5, 7 << 3 | 2, 8 << 3, 8 << 3 | 2, 20 << 3})

#: Width of the numbers in packed floats and ints.
_ATTRIBUTE_LISTS = {7 << 3 | 2: 4, 8 << 3 | 2: VARINTS}

_VALUE_NAME, _VALUE_TYPE = 1 << 3 | 2, 2 << 3 | 2

_DIM, _DIMS_PACKED, _DATA_TYPE, _TENSOR_NAME = 1 << 3, 1 << 3 | 2, 2 << 3, 8 << 3 | 2
_RAW, _EXTERNAL, _LOCATION = 9 << 3 | 2, 13 << 3 | 2, 14 << 3
_TENSOR_ONCE = frozenset({_DATA_TYPE, _TENSOR_NAME, _RAW, _LOCATION})
#: Elements that are not raw bytes, with the width of the numbers in a packed list: float_data, int32_data, int64_data,
#: double_data and uint64_data. 0: one number.
_TENSOR_LISTS = {
    4 << 3 | 5: 0,
    4 << 3 | 2: 4,
    5 << 3: 0,
    5 << 3 | 2: VARINTS,
    7 << 3: 0,
    7 << 3 | 2: VARINTS,
    10 << 3 | 1: 0,
    10 << 3 | 2: 8,
    11 << 3: 0,
    11 << 3 | 2: VARINTS,
}

_ENTRY_KEY, _ENTRY_VALUE = 1 << 3 | 2, 2 << 3 | 2
