"""Graph builder and its weights file: other libraries read both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from transformers.activations import ACT2FN

from fletcher.convert.checkpoint.tensors import Weight, constant
from fletcher.convert.graph.activations import AUTHORED, check_activation, emit_activation
from fletcher.convert.graph.builder import GraphBuilder, write_weights
from fletcher.runtime.artifact.manifest import TensorInfo
from fletcher.runtime.errors import CheckpointError


def builder() -> GraphBuilder:
    graph = GraphBuilder("test")
    graph.input(TensorInfo("x", "float32", ("rows", 3)))
    return graph


def run(graph: GraphBuilder, folder: Path, x: np.ndarray) -> np.ndarray:
    places = write_weights(folder / "w.safetensors", graph.weights.values())
    graph.save(folder / "g.onnx", places)
    session = onnxruntime.InferenceSession(folder / "g.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("name", ["plain", "with space", "ünï çødé 日本"])
def test_a_graph_and_its_weights_load_from_any_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    graph = builder()
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    product = graph.node("MatMul", ["x", graph.weight(constant("matrix", matrix))], "product")
    graph.node("Add", [product, graph.weight(constant("bias", np.ones(4)))], "y")
    graph.output(TensorInfo("y", "float32", ("rows", 4)))
    x = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(run(graph, folder, x), matrix + 1)
    stored = load_file(folder / "w.safetensors")
    assert np.array_equal(stored["matrix"], matrix) and stored["bias"].tolist() == [1] * 4
    model = onnx.load(folder / "g.onnx", load_external_data=False)
    assert {node.name for node in model.graph.node} == {"product", "y"}
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)


def test_the_first_weight_is_aligned_and_writing_is_repeatable(tmp_path: Path) -> None:
    weights = [constant("b", np.zeros(5)), constant("a", np.ones((2, 3)))]
    write_weights(tmp_path / "one", weights)
    write_weights(tmp_path / "two", reversed(weights))
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    assert (8 + int.from_bytes(data[:8], "little")) % 64 == 0


def test_equal_constants_of_one_type_are_stored_once() -> None:
    graph = builder()
    assert graph.constant([1]) == graph.constant(np.array([1], np.int64))
    assert (
        len({graph.constant(1), graph.constant([1]), graph.constant(1.0), graph.constant(0.0), graph.constant(-0.0)})
        == 5
    )


def test_names_are_unique() -> None:
    graph = builder()
    graph.node("Relu", ["x"], "y")
    with pytest.raises(ValueError, match="has a value 'y' already"):
        graph.node("Relu", ["x"], "y")
    graph.weight(constant("w", np.ones(2)))
    with pytest.raises(ValueError, match="two weights of the graph test are called 'w'"):
        graph.weight(constant("w", np.ones(3)))
    with pytest.raises(ValueError, match="belongs among the weights"):
        graph.constant(np.ones(1000))


def test_a_weight_with_a_shape_other_than_declared_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="should have shape"):
        write_weights(tmp_path / "w", [Weight("w", (2,), lambda: np.ones(3, np.float32))])


@pytest.mark.parametrize("name", sorted(AUTHORED - {"identity"}))
def test_activations_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    graph = builder()
    out = emit_activation(graph, name, "x", "activated")
    graph.node("Identity", [out], "y")
    graph.output(TensorInfo("y", "float32", ("rows", 3)))
    x = np.concatenate([np.linspace(-12, 12, 297), [0, -0.0, 1e-30]]).astype(np.float32).reshape(-1, 3)
    expected = ACT2FN[name](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(
        run(graph, tmp_path, x), expected, atol=2e-6, rtol=1e-6
    )  # MLAS computes no sigmoid below 1e-7


@pytest.mark.parametrize("name", ["gelu_10", "mish", "", None, ["gelu"]])
def test_other_activations_are_refused(name: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: hidden_act asks for the activation .*authors gelu, "):
        check_activation(name, "config.json: hidden_act")
