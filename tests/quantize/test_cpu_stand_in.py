"""Recipes for devices that the tests do not have: nodes of their graphs, and their vectors on the CPU provider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from fletcher.convert.export.export import export
from fletcher.convert.targets.tensorrt import emit as tensorrt
from fletcher.convert.texts import SENTENCES
from fletcher.quantize.measure.metrics import cosines
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import read_canary
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

from ..convert.targets.support.contrib_operators import spell_out
from ..convert.tiny import save_embedder

TEXTS = [text for text in SENTENCES if text.strip()]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of a tiny model for every target, which tests must not change."""
    folder = tmp_path_factory.mktemp("elsewhere")
    export(
        str(save_embedder(folder / "checkpoint")),
        folder / "artifact",
        targets=("cpu", "cuda", "tensorrt", "coreml"),
        precisions=("fp32", "fp16"),
    )
    return folder / "artifact"


def test_tensorrt_gets_typed_half_precision_qdq_around_the_feed_forward_matrices(parent: Path, tmp_path: Path) -> None:
    result = quantize(parent, tmp_path / "out", load_recipe("tensorrt-qdq"), texts=TEXTS)
    assert result.variant == "tensorrt-qdq"
    assert result.cosine_min >= 0.99
    graph = onnx.load(tmp_path / "out" / "tensorrt-qdq.onnx").graph
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == 2 * 2 and all("feed_forward" in node.name for node in quantized)
    assert {(node.domain, node.op_type) for node in graph.node} <= {
        ("", name) for name in (*tensorrt.OPERATORS, "QuantizeLinear", "DequantizeLinear")
    }
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert {kinds[node.input[1]] for node in quantized} == {TensorProto.FLOAT16}
    assert {kinds[node.input[2]] for node in quantized} == {TensorProto.INT8}
    zeros = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.endswith("/zero")]
    assert len(zeros) == 4 and not any(zero.any() for zero in zeros)  # kernels of GPUs support only symmetric ranges


def test_the_graph_for_cuda_has_the_same_vectors_with_standard_operators(parent: Path, tmp_path: Path) -> None:
    result = quantize(parent, tmp_path / "out", load_recipe("cuda-qdq"), texts=TEXTS)
    assert np.isnan(result.cosine_mean)  # no provider here runs the graph, so no cosine is reported
    artifact = Artifact.open(tmp_path / "out")
    (variant,) = artifact.manifest.variants
    assert variant.canary == "unchecked" and not variant.measured
    graph = spell_out(onnx.load(artifact.path / variant.file, load_external_data=False))
    canary = read_canary(artifact.canary_file)
    vectors = CpuGraph(graph.SerializeToString(), artifact.path).run(
        make_feeds(variant.inputs, variant.feeds, canary.encodings), [variant.outputs[0].name]
    )[0]
    assert cosines(vectors.astype(np.float64), canary.vectors.astype(np.float64)).min() >= 0.98


def test_weights_for_coreml_are_bytes_in_the_file_and_floats_after_loading(parent: Path, tmp_path: Path) -> None:
    result = quantize(parent, tmp_path / "out", load_recipe("coreml-w8"), texts=TEXTS)
    artifact = Artifact.open(tmp_path / "out")
    before = [one for one in Artifact.open(parent).manifest.variants if one.name.startswith("coreml-fp16")]
    assert [one.feeds.shape for one in artifact.manifest.variants] == [one.feeds.shape for one in before]
    assert result.cosine_min >= 0.999
    for variant, source in zip(artifact.manifest.variants, before, strict=True):
        stored = onnx.load(artifact.path / variant.file, load_external_data=False).graph
        assert sum(tensor.data_type == TensorProto.INT8 for tensor in stored.initializer) == 2 * 4
        # Without the nodes that are folded at load, it is the graph of the parent. test_operators shows that CoreML runs it.
        folded = [node for node in stored.node if node.name.endswith(("/floats", "/wide", "/narrow"))]
        remaining = [node.op_type for node in stored.node if node not in folded]
        assert remaining == [
            node.op_type for node in onnx.load(parent / source.file, load_external_data=False).graph.node
        ]
        options = SessionOptions()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
        InferenceSession(artifact.path / variant.file, options, providers=["CPUExecutionProvider"])
        loaded = onnx.load(tmp_path / "loaded.onnx", load_external_data=False).graph
        assert not {node.name for node in folded} & {node.name for node in loaded.node}
        assert not any(tensor.data_type == TensorProto.INT8 for tensor in loaded.initializer)


@pytest.mark.parametrize(("name", "least"), [("openvino-static", 0.98), ("openvino-w8", 0.99)])
def test_openvino_compiles_and_runs_its_recipes(parent: Path, tmp_path: Path, name: str, least: float) -> None:
    quantize(parent, tmp_path / "out", load_recipe(name), texts=TEXTS)
    with Encoder.load(parent, provider="mlas") as encoder:
        reference = encoder.embed(TEXTS).vectors
    with Encoder.load(tmp_path / "out", provider="openvino") as encoder:
        vectors = encoder.embed(TEXTS).vectors
        alone = np.concatenate([encoder.embed([text]).vectors for text in TEXTS[:8]])
    assert cosines(vectors.astype(np.float64), reference.astype(np.float64)).min() >= least
    assert cosines(alone.astype(np.float64), vectors[:8].astype(np.float64)).min() >= 1 - 1e-5


def test_openvino_keeps_weights_in_bytes(parent: Path, tmp_path: Path) -> None:
    quantize(parent, tmp_path / "out", load_recipe("openvino-w8"), texts=TEXTS)
    (variant,) = Artifact.open(tmp_path / "out").manifest.variants
    Encoder.load(tmp_path / "out", provider="openvino").close()  # imports openvino without its telemetry
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tmp_path / "out" / variant.file), "CPU")
    operations = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    products = [info for info in operations if info["layerType"].astype(str) == "FullyConnected"]
    assert len(products) == 2 * 4
    assert {info["runtimePrecision"].astype(str) for info in products} == {"i8"}


def test_reduced_weights_cannot_saturate_without_vnni(parent: Path, tmp_path: Path) -> None:
    quantize(parent, tmp_path / "out", load_recipe("int8-per-token-reduced"), texts=TEXTS)
    (variant,) = Artifact.open(tmp_path / "out").manifest.variants
    assert variant.instructions == ()
    graph = onnx.load(tmp_path / "out" / variant.file).graph
    weights = {node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
    largest = max(np.abs(numpy_helper.to_array(one)).max() for one in graph.initializer if one.name in weights)
    # VPMADDUBSW adds two products of an unsigned and a signed byte in 16 bits.
    assert len(weights) == 2 * 4 and 0 < largest <= 63
    assert 2 * 255 * int(largest) <= np.iinfo(np.int16).max


def test_the_error_names_a_target_that_was_not_exported(minilm_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no tensorrt-fp16.*--target tensorrt --precision fp16"):
        quantize(minilm_artifact, tmp_path / "out", load_recipe("tensorrt-qdq"), texts=TEXTS)
    assert not list(tmp_path.iterdir())
