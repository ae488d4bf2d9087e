"""The artefact's side: the values of the graph that is served, text by text.

The graph file is read, the wanted values are added to its outputs, and ONNX Runtime runs it with its optimiser off, since
that would fuse values away; `vectors` of this run is compared with `vectors` of the served session too. Nothing is written.

Attention is one operator, which keeps its scores to itself. Beside each such node stand four copies of it with the same
inputs and attributes and the fourth output that ONNX gives `Attention`, `qk_matmul_output`; the first copy has scale 1. In
ONNX Runtime 1.32 (CPU, opset 24) mode 0 gives the scaled products, 2 those with bias and mask added (-3.4e38 on padding,
with `nonpad_kv_seqlen` and with masks), 3 the softmax. tests/convert/test_layers.py recomputes all of them with numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.probe import ProbeSession

from .points import SCORE_POINTS, Kind, Point, find_points

__all__ = ["OUT_OF_SIGHT", "GraphProbe", "Values"]

#: What each point is on each text of a batch, by the point's key.
Values = Mapping[str, Sequence[NDArray[np.float32]]]

#: A score lower than it was before the mask by more than this is masked: learnt biases and ALiBi stay far below.
OUT_OF_SIGHT = 1e3

#: Copies of an attention node: suffix of their names, `qk_matmul_output_mode`, and attributes that differ.
_COPIES: Sequence[tuple[str, int, Mapping[str, float]]] = (
    ("raw", 0, {"scale": 1.0}),
    ("scaled", 0, {}),
    ("biased", 2, {}),
    ("softmax", 3, {}),
)
_SCORES_OUTPUT = 3  # of Attention: Y, present_key, present_value, qk_matmul_output


class GraphProbe:
    """A graph whose points can be read. A context manager.

    Attributes:
        model: the served graph, without its weights.
        points: in the order of computation.
    """

    def __init__(self, graph: Path) -> None:
        """
        Args:
            graph: the ONNX file; its weights lie beside it.

        Raises:
            ArtifactError: the file is no ONNX graph, or not one that eats packed tokens.
        """
        self.model = read_graph(graph)
        self.points = find_points(self.model)
        self._values = list(dict.fromkeys(value for point in self.points for value in _values_of(point)))
        self._session = ProbeSession(_with_outputs(self.model, self._values), graph.parent)

    def run(self, batch: Encodings) -> tuple[Values, NDArray[np.float32]]:
        """Computes one batch.

        Returns:
            Every point's value on each text: (tokens, width), (heads, tokens, tokens) or (width,); the last axis of the mask
            and the softmax goes on to the longest text. And the vectors, (texts, dimension).
        """
        arrays = dict(
            zip([*self._values, "vectors"], self._session.run(batch, [*self._values, "vectors"]), strict=True)
        )
        found: dict[str, list[NDArray[np.float32]]] = {}
        for point in self.points:
            if point.kind is Kind.SCORES:
                if point.key not in found:
                    layer = point.key.partition("/")[0]
                    scores = _split_scores([arrays[value] for value in _values_of(point)], batch)
                    found.update({f"{layer}/{name}": rows for name, rows in scores.items()})
            else:
                found[point.key] = _split(point, arrays[point.value], batch)
        return found, arrays["vectors"].astype(np.float32)

    def close(self) -> None:
        """Gives the memory back."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_graph(file: Path) -> onnx.ModelProto:
    """A graph file without its external weights.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's own, or the file system's
        raise ArtifactError(f"{file} cannot be read as an ONNX graph: {error}") from error


def _values_of(point: Point) -> list[str]:
    """The values of the probed graph that a point is made from."""
    if point.kind is Kind.SCORES:
        return [f"{point.value}#{suffix}" for suffix, _, _ in _COPIES]
    return [point.value]


def _with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> bytes:
    """A copy of the graph, with the copies of its attention nodes, and with those values as outputs, too."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    nodes = []
    for node in probed.graph.node:
        nodes.append(node)
        if node.op_type == "Attention" and f"{node.output[0]}#{_COPIES[0][0]}" in values:
            nodes += [_copy(node, *copy) for copy in _COPIES]
    del probed.graph.node[:]
    probed.graph.node.extend(nodes)
    probed.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    serialised: bytes = probed.SerializeToString()
    return serialised


def _copy(node: onnx.NodeProto, suffix: str, mode: int, changed: Mapping[str, float]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{node.name}#{suffix}"
    copy.ClearField("output")
    outputs = [""] * _SCORES_OUTPUT
    copy.output.extend([f"{node.output[0]}#{suffix}/context", *outputs[1:], f"{node.output[0]}#{suffix}"])
    attributes: dict[str, Any] = {"qk_matmul_output_mode": mode, **changed}
    kept = [attribute for attribute in copy.attribute if attribute.name not in attributes]
    copy.ClearField("attribute")
    copy.attribute.extend([*kept, *(onnx.helper.make_attribute(name, value) for name, value in attributes.items())])
    return copy


def _split(point: Point, array: NDArray[Any], batch: Encodings) -> list[NDArray[np.float32]]:
    """A value by texts."""
    values = array.astype(np.float32, copy=False)
    if point.kind is Kind.TEXTS:
        return list(values)
    if values.ndim == 3:  # (texts, longest, width)
        return [values[row, :length] for row, length in enumerate(batch.lengths.tolist())]
    return np.split(values, batch.offsets[1:-1])


def _split_scores(arrays: Sequence[NDArray[Any]], batch: Encodings) -> dict[str, list[NDArray[np.float32]]]:
    """Scores by texts, without the rows of padding.

    Args:
        arrays: one of each of `_COPIES`, (texts, heads, longest, longest).
        batch: the texts.
    """
    raw, scaled, biased, softmax = (array.astype(np.float32, copy=False) for array in arrays)
    with np.errstate(invalid="ignore", over="ignore"):
        seen = biased - scaled > -OUT_OF_SIGHT
    biased = np.where(seen, biased, np.float32(0))
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SCORE_POINTS}
    for row, size in enumerate(batch.lengths.tolist()):
        found["attention/raw_scores"].append(raw[row, :, :size, :size])
        found["attention/scaled_scores"].append(scaled[row, :, :size, :size])
        found["attention/mask"].append(seen[row, :, :size].astype(np.float32))
        found["attention/biased_scores"].append(biased[row, :, :size, :size])
        found["attention/softmax"].append(softmax[row, :, :size])
        found["attention/softmax_sums"].append(softmax[row, :, :size].sum(axis=-1))
    return found
