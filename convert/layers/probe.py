"""Values of the served graph, text by text: the artifact's side of the comparison.

The graph file is read, the compared values are added to its outputs, and ONNX Runtime runs it without its optimizer, which
would fuse values away. `vectors` of this run is compared with `vectors` of the served session too. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.closing import Closing
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.providers.inspection import InspectionSession
from fletcher.runtime.session.feeds import make_feeds, pack

from .points import GraphPoint, Kind, find_points, hidden_points
from .scores import Shown, copies_of, shown_by, split_scores

__all__ = ["GraphProbe", "Values"]

#: Value of each point on each text of a batch, by the point's key.
Values = Mapping[str, Sequence[NDArray[np.float32]]]


class GraphProbe(Closing):
    """Graph whose points can be read; a context manager.

    Attributes:
        model: the served graph, without its weights.
        points: points in the order of computation.
        hidden: keys of points that the graph computes inside an operator.
        tables: tables whose rows the host looks up, by input, (rows, width).
    """

    def __init__(self, artifact: Artifact, variant: Variant) -> None:
        """Read a variant's graph and open a session with its values as outputs.

        Raises:
            ArtifactError: ONNX Runtime cannot run the file.
            MissingPackageError: the graph is for CUDA, and ONNX Runtime with CUDA is not installed.
            ProviderError: the graph is for CUDA, which cannot be used on this machine.
        """
        self._artifact, self._variant = artifact, variant
        self.model = self._read()
        self.points = find_points(self.model)
        self._scores = self._find_scores()
        self.hidden = hidden_points(self.model, self.points)
        values = [point.value for point in self.points if point.kind is not Kind.SCORES]
        values += [value for scores in self._scores.values() for value in scores.values]
        self._output = variant.outputs[0].name
        self._each_token = artifact.manifest.card.output == "token_vectors"
        self._values = [*dict.fromkeys([*values, self._output])]
        graph = _with_outputs(self.model, self._values)
        self._session = InspectionSession(graph, artifact.path, variant.target)
        self.tables = artifact.tables(variant)

    def run(self, batch: Encodings) -> tuple[Values, NDArray[np.float32]]:
        """Compute one batch.

        Returns:
            Every point's value on each text, (tokens, width), (width,), or scores, see `split_scores`; and the output of the
            graph, float32, (texts, dimension) or (tokens, dimension).
        """
        feeds = make_feeds(self._variant.inputs, self._variant.feeds, batch, self.tables)
        outputs = self._session.run(feeds, [_widened(value) for value in self._values])
        arrays = {value: outputs[_widened(value)] for value in self._values}
        values: dict[str, list[NDArray[np.float32]]] = {
            point.key: _split(point, arrays[point.value], batch)
            for point in self.points
            if point.kind is not Kind.SCORES
        }
        for layer, shown in self._scores.items():
            values.update({f"{layer}/{name}": rows for name, rows in split_scores(shown, arrays, batch).items()})
        if self._each_token:
            return values, pack(arrays[self._output], batch)
        return values, arrays[self._output][: len(batch)]

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def _read(self) -> onnx.ModelProto:
        data = read_graph(self._artifact, self._variant)
        try:
            return onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's errors have no base that onnx exports
            file = self._artifact.path / self._variant.file
            raise ArtifactError(f"{file} cannot be read as an ONNX graph: {error}") from error

    def _find_scores(self) -> dict[str, Shown]:
        """Return the names of the scores, by the key of their layer."""
        keys = {point.node: point.key.partition("/")[0] for point in self.points if point.kind is Kind.SCORES}
        shown = {keys[node.name]: shown_by(node) for node in self.model.graph.node if node.name in keys}
        return {layer: scores for layer, scores in shown.items() if scores is not None}


def _widened(value: str) -> str:
    """Return the name of a value's float32 form in the probed graph."""
    return f"{value}#float32"


def _with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> bytes:
    """Return a copy of the graph, with the copies of its attention nodes, and with those values as float32 outputs."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    nodes = [copy for node in probed.graph.node for copy in (node, *copies_of(node))]
    # ONNX Runtime cannot return bfloat16, which numpy lacks: all values are cast to float32 inside the graph.
    nodes += [onnx.helper.make_node("Cast", [value], [_widened(value)], to=onnx.TensorProto.FLOAT) for value in values]
    del probed.graph.node[:]
    probed.graph.node.extend(nodes)
    probed.graph.output.extend(onnx.ValueInfoProto(name=_widened(value)) for value in values)
    serialized: bytes = probed.SerializeToString()
    return serialized


def _split(point: GraphPoint, array: NDArray[np.float32], batch: Encodings) -> list[NDArray[np.float32]]:
    """Return a value split by texts."""
    if point.kind is Kind.TEXTS:
        return list(array[: len(batch)])
    return np.split(pack(array, batch), batch.offsets[1:-1])
