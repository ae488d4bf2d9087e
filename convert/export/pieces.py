"""Computation of a graph in pieces: a session holds a part of the nodes and their weights, computes all batches, and closes.

Each weight is read once, however many batches there are, and no session holds the whole model. The memory is that of one
piece's weights, of one batch, and of the values that later pieces need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.providers.mlas.mapped import LARGE

from ..checkpoint.tensors import Weight

__all__ = ["LARGE", "PIECE", "compute_in_pieces", "group_rows"]

Array = NDArray[Any]

#: Bytes of the weights of a piece in float32, unless a single weight has more.
PIECE = 128 << 20

#: Most tokens of a batch, padding included; a longer text is a batch of its own.
TOKENS = 512


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive nodes of a graph. A lookup is the only node of its piece; its table is not loaded as a whole.

    Attributes:
        nodes: the nodes.
        inputs: values from outside that they read, without weights.
        outputs: their values that later pieces or the caller read.
        lookup: whether the node takes rows of a table that is larger than a piece.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookup: bool


def compute_in_pieces(
    model: onnx.ModelProto,
    weights: Mapping[str, Weight] | Path,
    feeds: Sequence[Mapping[str, Array]],
    outputs: Sequence[str],
    *,
    size: int = PIECE,
) -> list[dict[str, Array]]:
    """Compute outputs of a graph on the processor.

    Args:
        model: the graph, whose nodes are in the order of computation.
        weights: the external weights by name, in float32; or the folder of the files that hold them.
        feeds: inputs of each batch by name.
        outputs: names of values of the graph.
        size: bytes of a piece's weights.

    Returns:
        The outputs of each batch, by name.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
        ArtifactError: ONNX Runtime cannot load a piece.
        ProviderError: ONNX Runtime cannot compute a piece.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    pieces = _cut(model, tensors, outputs, size, can_look_up=not isinstance(weights, Path))
    last_use = {name: number for number, piece in enumerate(pieces) for name in piece.inputs}
    values = [dict(batch) for batch in feeds]
    for number, piece in enumerate(pieces):
        if piece.lookup and not isinstance(weights, Path):
            _look_up(piece.nodes[0], weights, values)
        else:
            _compute(model, piece, tensors, weights, values)
        for batch in values:
            for name in [name for name in batch if last_use.get(name, -1) <= number and name not in outputs]:
                del batch[name]
    return values


def group_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Return consecutive rows of each batch.

    Args:
        lengths: tokens of each text.
    """
    batches: list[list[int]] = []
    for row, length in enumerate(lengths):
        longest = max([length, *(lengths[other] for other in batches[-1])]) if batches else 0
        if not batches or longest * (len(batches[-1]) + 1) > TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches


def _cut(
    model: onnx.ModelProto,
    tensors: Mapping[str, TensorProto],
    outputs: Sequence[str],
    size: int,
    *,
    can_look_up: bool,
) -> list[_Piece]:
    """Cut the nodes into pieces with weights of about `size` bytes."""
    groups: list[tuple[list[onnx.NodeProto], bool]] = [([], False)]
    held: set[str] = set()
    for node in model.graph.node:
        needed = {name for name in node.input if name in tensors and _is_external(tensors[name])}
        is_lookup = can_look_up and _is_lookup(node) and any(_bytes(tensors[name]) > size for name in needed)
        after_lookup = groups[-1][1]
        grown = held | needed
        if (
            is_lookup
            or after_lookup
            or (held and sum(_bytes(tensors[name]) for name in grown) > size and grown != held)
        ):
            groups.append(([], is_lookup))
            held = set() if is_lookup else needed
        else:
            held = grown
        groups[-1][0].append(node)
    read_by = [{name for node in nodes for name in node.input if name} for nodes, _ in groups]
    pieces = []
    later = set(outputs)
    for (nodes, is_lookup), read in zip(reversed(groups), reversed(read_by), strict=True):
        made = [name for node in nodes for name in node.output if name]
        inputs = sorted(read.difference(made, tensors))
        pieces.append(_Piece(tuple(nodes), tuple(inputs), tuple(name for name in made if name in later), is_lookup))
        later |= read
    return [piece for piece in reversed(pieces) if piece.nodes]


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _bytes(tensor: TensorProto) -> int:
    """Return the bytes of a tensor in float32, to which a session converts the half types when it is opened."""
    return int(4 * math.prod(tensor.dims))


def _is_lookup(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gather" and all(
        attribute.i == 0 for attribute in node.attribute if attribute.name == "axis"
    )


def _look_up(node: onnx.NodeProto, weights: Mapping[str, Weight], values: Sequence[dict[str, Array]]) -> None:
    """Take the rows of all batches from a table that is read a part at a time."""
    table, index = node.input
    rows, places = np.unique(np.concatenate([batch[index].reshape(-1) for batch in values]), return_inverse=True)
    found = np.empty((len(rows), *weights[table].shape[1:]), np.float32)
    for first, part in _rows(weights[table]):
        start, stop = np.searchsorted(rows, (first, first + len(part)))
        found[start:stop] = part[rows[start:stop] - first]
    begin = 0
    for batch in values:
        shape = batch[index].shape
        end = begin + math.prod(shape)
        batch[node.output[0]] = found[places[begin:end]].reshape(*shape, *found.shape[1:])
        begin = end


def _rows(weight: Weight) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield rows of a table with the number of the first one, as many as a part has."""
    width = math.prod(weight.shape[1:])
    first, rest = 0, np.empty(0, np.float32)
    for part in weight.parts():
        flat = np.concatenate([rest, part.reshape(-1)]) if len(rest) else part.reshape(-1)
        whole = len(flat) // width
        yield first, flat[: whole * width].reshape(whole, *weight.shape[1:])
        first, rest = first + whole, flat[whole * width :]


def _compute(
    model: onnx.ModelProto,
    piece: _Piece,
    tensors: Mapping[str, TensorProto],
    weights: Mapping[str, Weight] | Path,
    values: Sequence[dict[str, Array]],
) -> None:
    """Compute a piece for all batches."""
    read = {name for node in piece.nodes for name in node.input}
    initializers = [tensors[name] for name in tensors if name in read]
    # Weights in memory are inputs, because ONNX Runtime copies the initializers that it is given and not the inputs of a run.
    loaded: dict[str, Array] = {}
    if not isinstance(weights, Path):
        loaded = {tensor.name: weights[tensor.name].load() for tensor in initializers if _is_external(tensor)}
        initializers = [tensor for tensor in initializers if not _is_external(tensor)]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in (*((name, values[0][name]) for name in piece.inputs), *loaded.items())
    ]
    results = [onnx.ValueInfoProto(name=name) for name in piece.outputs]
    graph = helper.make_graph(piece.nodes, model.graph.name, inputs, results, initializers)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = CpuGraph(part.SerializeToString(), weights if isinstance(weights, Path) else Path(), mapped=True)
    for batch in values:
        feeds = {**loaded, **{name: batch[name] for name in piece.inputs}}
        batch.update(zip(piece.outputs, session.run(feeds, piece.outputs), strict=True))
