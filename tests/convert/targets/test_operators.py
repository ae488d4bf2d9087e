"""Each emitter uses only the operators of its list, with types that their kernels have, in every family and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, shape_inference
from onnxruntime.tools.mobile_helpers.usability_checker import check_coreml_partitions

from fletcher.convert.precision import Float
from fletcher.convert.targets.coreml import emit as coreml
from fletcher.convert.targets.emit import PRECISIONS
from fletcher.convert.targets.tensorrt import emit as tensorrt

from ..verify.parity import make_card
from .models import MODELS, REFUSED, SLOW, shared
from .sessions import architecture_of, models_of
from .support.graph_types import SYNCHRONIZING, assert_kernels, typed

HALVES: tuple[Float, ...] = ("fp16", "bf16")

#: Operators that an encoder for CoreML must not use, in any version of CoreML.
REFUSED_BY_COREML = {"Gather", "Where", "Expand", "Neg", "Attention", "RotaryEmbedding", "Range", "Shape", "NonZero"}


def _graphs(name: str, folder: Path, target: str, precision: Float) -> list[onnx.ModelProto]:
    tiny = shared(name)
    card = make_card(tiny.save(folder), tiny.hidden, tiny.longest)
    return models_of(architecture_of(folder, card), card, folder, target, precision)[1]


def _combinations(target: str) -> list[Any]:
    names = [name for name in MODELS if name not in REFUSED.get(target, ())]
    pairs = [(name, precision) for name in names for precision in PRECISIONS[target]]  # type: ignore[index]
    return [pytest.param(*pair, marks=pytest.mark.slow) if pair[0] in SLOW else pair for pair in pairs]


@pytest.mark.parametrize(("name", "precision"), _combinations("cuda"))
def test_cuda_has_a_kernel_for_every_node(tmp_path: Path, name: str, precision: Float) -> None:
    (model,) = _graphs(name, tmp_path, "cuda", precision)
    assert_kernels(model)
    attentions = sum(node.op_type == "PackedMultiHeadAttention" for node in model.graph.node)
    least = {"static_embedding": 0, "lfm2": 1, "lfm2_bidirectional": 1}.get(name, 2)
    assert attentions >= least and bool(attentions) == bool(least)


@pytest.mark.parametrize(("name", "precision"), _combinations("tensorrt"))
def test_tensorrt_has_standard_operators_and_typed_values(tmp_path: Path, name: str, precision: Float) -> None:
    (model,) = _graphs(name, tmp_path, "tensorrt", precision)
    assert {(node.domain, node.op_type) for node in model.graph.node} <= {("", name) for name in tensorrt.OPERATORS}
    assert not {node.op_type for node in model.graph.node} & SYNCHRONIZING
    types = typed(model)
    assert all(types[value].elem_type for node in model.graph.node for value in (*node.input, *node.output) if value)
    for node in model.graph.node:
        if node.op_type == "Softmax" and node.name.endswith(
            "/attention/weights"
        ):  # MatMul(scaled query, key) + mask, Softmax, MatMul
            _assert_fusible(model, node)


def _assert_fusible(model: onnx.ModelProto, softmax: onnx.NodeProto) -> None:
    makers = {value: node for node in model.graph.node for value in node.output}
    (user,) = (node for node in model.graph.node if softmax.output[0] in node.input)
    assert user.op_type == "MatMul"
    node = makers[softmax.input[0]]
    assert node.op_type == "Add"
    while node.op_type == "Add":
        node = makers[node.input[0]]
    assert node.op_type == "MatMul"
    query = makers[node.input[0]]  # transposed heads of the scaled query
    while query.op_type in ("Transpose", "Reshape"):
        query = makers[query.input[0]]
    assert query.op_type == "Mul"


@pytest.mark.parametrize(("name", "precision"), _combinations("coreml"))
def test_coreml_accepts_every_node_of_each_graph(tmp_path: Path, name: str, precision: Float) -> None:
    for model in _graphs(name, tmp_path, "coreml", precision):
        operators = {node.op_type for node in model.graph.node}
        assert operators <= coreml.OPERATORS
        assert not operators & REFUSED_BY_COREML
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        info = check_coreml_partitions(inferred, True, "coreml_supported_mlprogram_ops.md")
        assert info.num_partitions == 1
        assert info.num_supported_nodes == info.num_nodes == len(model.graph.node)
        for shape in typed(model).values():
            sides = [side.dim_value for side in shape.shape.dim]
            assert all(0 < side <= coreml.LARGEST_SIDE for side in sides), sides


@pytest.mark.parametrize("target", PRECISIONS)
@pytest.mark.parametrize("precision", HALVES)
def test_no_constant_is_infinite_and_types_are_as_requested(tmp_path: Path, target: str, precision: Float) -> None:
    if precision not in PRECISIONS[target]:  # type: ignore[index]
        pytest.skip("CoreML has no bfloat16")
    element_type = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    for model in _graphs(
        "modernbert", tmp_path, target, precision
    ):  # ModernBERT has windows, so that the graph has masks
        stored = [tensor.data_type for tensor in model.graph.initializer if tensor.external_data]
        assert stored.count(element_type) > len(stored) / 2
        for tensor in model.graph.initializer:
            if not tensor.external_data:
                assert np.isfinite(numpy_helper.to_array(tensor).astype(np.float32)).all()


def test_buckets_end_with_the_longest_text() -> None:
    assert coreml.lengths(512) == (32, 64, 128, 256, 512)
    assert coreml.lengths(384) == (32, 64, 128, 256, 384)
    assert coreml.lengths(20) == (20,)
    assert coreml.lengths(8192) == (32, 64, 128, 256, 512, 1024, 2048)


def test_profiles_cover_every_input_and_the_longest_text(tmp_path: Path) -> None:
    tiny = shared("mpnet")
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest)
    architecture = architecture_of(tmp_path, card)
    for max_tokens, longest in ((20, [20]), (512, [128, 512])):
        emission = tensorrt.emit_tensorrt(architecture, card.dimension, max_tokens)
        assert [profile.max["input_ids"][1] for profile in emission.profiles] == longest
        for profile in emission.profiles:
            for info in emission.graph.inputs:
                shapes = (profile.min[info.name], profile.opt[info.name], profile.max[info.name])
                assert all(len(shape) == len(info.shape) for shape in shapes)
                assert all(low <= middle <= high for low, middle, high in zip(*shapes, strict=True))
            assert profile.max["input_ids"][0] * profile.max["input_ids"][1] <= tensorrt.MAX_TOKENS
            assert profile.max["steps"] == (profile.max["input_ids"][1],)
