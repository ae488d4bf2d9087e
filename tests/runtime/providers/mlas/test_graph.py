"""`CpuGraph`: results of any graph on the CPU provider, and translation of its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from fletcher.runtime.errors import ArtifactError, ProviderError
from fletcher.runtime.providers.mlas.graph import CpuGraph


def _graph(operator: str, domain: str = "") -> bytes:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    node = helper.make_node(operator, ["x", "x"], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", infos[:1], infos[1:]), opset_imports=opsets, ir_version=10)
    serialized: bytes = model.SerializeToString()
    return serialized


def test_a_graph_computes(tmp_path: Path) -> None:
    (values,) = CpuGraph(_graph("Add"), tmp_path).run({"x": np.array([[1, 2]], np.float32)}, ["y"])
    assert values.tolist() == [[2, 4]]


@pytest.mark.parametrize(
    "graph", [b"no graph", _graph("NoSuchOperator"), _graph("PackedMultiHeadAttention", "com.microsoft")]
)
def test_a_graph_that_cannot_be_loaded_is_an_artifact_error(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(ArtifactError, match="cannot load a graph of"):
        CpuGraph(graph, tmp_path)


def test_the_error_of_inputs_that_do_not_fit_has_their_shapes(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"x \(1, 3\)"):
        CpuGraph(_graph("Add"), tmp_path).run({"x": np.zeros((1, 3), np.float32)}, ["y"])
