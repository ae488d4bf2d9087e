"""Types of nodes, weights and constants, and the islands that recorded maxima require."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors import safe_open
from transformers import BertConfig, BertModel

from fletcher.convert.checkpoint.tensors import Weight, constant
from fletcher.convert.export.precision_islands import MARGIN, find_islands, record_maxima
from fletcher.convert.graph.builder import GraphBuilder, write_weights
from fletcher.convert.precision import FP32, Precision
from fletcher.convert.targets.emit import choose, emit
from fletcher.runtime.artifact.manifest import TensorInfo
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import CheckpointError

from .families.tiny import POSITIONS, SIZES
from .targets.sessions import TargetSession, architecture_of, models_of
from .targets.support.contrib_operators import spell_out
from .targets.support.rounding import RoundingGraph
from .verify.parity import make_card, randomize, save_checkpoint

FP16 = Precision("fp16", "fp16")


def _graph(precision: Precision) -> GraphBuilder:
    """Return a graph of y = norm(x · w + 0.5), x in float32."""
    graph = GraphBuilder("test", precision)
    x = graph.input(TensorInfo("x", "float32", (2, 4)))
    product = graph.node("MatMul", [x, graph.weight(constant("w", np.eye(4)))], "product")
    total = graph.node("Add", [product, graph.constant(0.5)], "sum")
    graph.node("LayerNormalization", [total, graph.weight(constant("scale", np.ones(4)))], "norm")
    graph.node("Identity", ["norm"], "vectors")
    graph.output(TensorInfo("vectors", "float32", (2, 4)))
    return graph


def _types(graph: GraphBuilder, folder: Path) -> dict[str, int]:
    model = graph.model(write_weights(folder / "w", graph.weights.values()))
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    return {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}


def test_nodes_compute_in_the_precision_and_islands_in_fp32(tmp_path: Path) -> None:
    types = _types(_graph(FP16), tmp_path)
    assert types["product"] == types["sum"] == types["norm"] == TensorProto.FLOAT16
    graph = _graph(Precision("fp16", "fp16", frozenset({"sum", "norm"})))
    types = _types(graph, tmp_path)
    assert types["product"] == TensorProto.FLOAT16
    assert types["sum"] == types["norm"] == TensorProto.FLOAT
    assert {name: weight.precision for name, weight in graph.weights.items()} == {"w": "fp16", "scale.fp32": "fp32"}
    assert graph.float_values["product/fp32"] == "fp32"


def test_fp32_graphs_have_no_cast(tmp_path: Path) -> None:
    assert ("", "Cast") not in _graph(FP32).operators
    assert set(_types(_graph(FP32), tmp_path).values()) == {TensorProto.FLOAT}


def test_on_the_cpu_half_types_are_storage_only(tmp_path: Path) -> None:
    graph = _graph(choose("cpu", "fp16"))
    assert all(kind == "fp32" for kind in graph.float_values.values())
    assert {weight.precision for weight in graph.weights.values()} == {"fp16"}
    path = tmp_path / "weights"
    write_weights(path, graph.weights.values())
    with safe_open(path, framework="numpy") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}  # noqa: SIM118


def test_a_constant_that_the_type_cannot_hold_is_refused() -> None:
    graph = GraphBuilder("test", FP16)
    x = graph.input(TensorInfo("x", "float32", (2,)))
    with pytest.raises(ValueError, match="more than fp16 can hold"):
        graph.node("Mul", [x, graph.constant(-1e30)], "product")


@pytest.mark.parametrize(
    ("precision", "value", "refused"), [("fp16", 7e4, True), ("fp16", 6e4, False), ("bf16", 7e4, False)]
)
def test_a_weight_that_the_type_cannot_hold_is_refused_by_name(
    tmp_path: Path, precision: Any, value: float, refused: bool
) -> None:
    weight = Weight("layer.weight", (2,), lambda: np.array([1.0, -value], np.float32), precision)
    if not refused:
        write_weights(tmp_path / "w", [weight])
        return
    with pytest.raises(CheckpointError, match=r"layer\.weight.*65504"):
        write_weights(tmp_path / "w", [weight])


def _loud_model() -> BertModel:
    """Return a model whose second feed-forward part gives values of several hundred thousand, which the norm then reduces."""
    model = randomize(BertModel(BertConfig(**SIZES, hidden_act="relu")))
    with torch.no_grad():
        for parameter in model.encoder.layer[1].intermediate.dense.parameters():
            parameter.mul_(5000.0)
        for parameter in model.encoder.layer[1].output.dense.parameters():
            parameter.mul_(50.0)
    return model  # type: ignore[no-any-return]


def _record(model: BertModel, folder: Path, texts: Encodings) -> tuple[onnx.ModelProto, dict[str, float]]:
    card = make_card(save_checkpoint(model, folder), 48, POSITIONS, pooling=("mean",))
    (emission,), (graph,) = models_of(architecture_of(folder, card), card, folder, "tensorrt", "fp32")
    return graph, record_maxima(emission, graph, texts)


def _texts(lengths: tuple[int, ...]) -> Encodings:
    generator = np.random.default_rng(0)
    return Encodings.from_lists([generator.integers(5, 120, length).tolist() for length in lengths])


def test_maxima_equal_those_of_transformers(tmp_path: Path) -> None:
    model = _loud_model()
    texts = _texts((9,) * 11)  # texts of one length need no padding
    _, maxima = _record(model, tmp_path, texts)
    recorded: dict[str, torch.Tensor] = {}
    layer: Any = model.encoder.layer[1]
    for name, module in (
        ("up", layer.intermediate.dense),
        ("down", layer.output.dense),
        ("norm", layer.output.LayerNorm),
    ):
        module.register_forward_hook(
            lambda _, inputs, output, name=name: recorded.update({name: output, f"{name}_in": inputs[0]})
        )
    with torch.no_grad():
        model(torch.from_numpy(texts.ids.reshape(11, 9).astype(np.int64)))
    prefix = "encoder.layer.1/feed_forward"
    expected = {
        f"{prefix}/up": recorded["up"].abs().max(),
        f"{prefix}/down": recorded["down"].abs().max(),
        f"{prefix}/residual": recorded["norm_in"].abs().max(),
        f"{prefix}/norm": recorded["norm"].abs().max(),
        f"{prefix}/norm#squares": recorded["norm_in"].square().sum(-1).max(),
    }
    for name, value in expected.items():
        assert maxima[name] == pytest.approx(float(value), rel=1e-3), name


def test_islands_are_overflowing_nodes_and_their_neighbors(tmp_path: Path) -> None:
    graph, maxima = _record(_loud_model(), tmp_path, _texts((9, 4, 1)))
    islands = find_islands(graph, maxima, "fp16")
    prefix = "encoder.layer.1/feed_forward"
    assert {f"{prefix}/{part}" for part in ("down", "residual", "norm")} <= islands
    assert {name.partition("/")[0] for name in islands} == {"encoder.layer.1"}
    assert not find_islands(graph, maxima, "bf16")
    calm, quiet = _record(randomize(BertModel(BertConfig(**SIZES))), tmp_path, _texts((9, 4, 1)))
    assert not find_islands(calm, quiet, "fp16")
    limit = 65504 / MARGIN
    name = "encoder.layer.0/attention/residual"
    assert name in find_islands(calm, quiet | {name: 1.01 * limit}, "fp16")
    assert not find_islands(calm, quiet | {name: 0.99 * limit}, "fp16")


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_attention_that_overflows_is_an_island_on_every_target(tmp_path: Path, target: str) -> None:
    graph, maxima = _record(randomize(BertModel(BertConfig(**SIZES))), tmp_path, _texts((9, 4)))
    loud = maxima | {"encoder.layer.2/attention/key": 1e5}
    for precision in ("fp16", "bf16"):
        assert "encoder.layer.2/attention/context" in find_islands(graph, loud, precision)
    card = make_card(tmp_path, 48, POSITIONS, pooling=("mean",))
    islands = find_islands(graph, loud, "fp16")
    (emission,) = emit(target, architecture_of(tmp_path, card), 48, POSITIONS, choose(target, "fp16", islands))
    assert emission.graph.float_values["encoder.layer.2/attention/context"] == "fp32"
    assert emission.graph.float_values["encoder.layer.1/attention/context"] == "fp16"


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_islands_keep_the_accuracy_despite_overflow(tmp_path: Path, target: str) -> None:
    model = _loud_model()
    texts = _texts((9, 4, 1, 17))
    graph, maxima = _record(model, tmp_path, texts)
    card = make_card(tmp_path, 48, POSITIONS, pooling=("mean",))
    architecture = architecture_of(tmp_path, card)
    worst = {}
    with torch.no_grad():
        hidden = [model(torch.from_numpy(part[None].astype(np.int64))).last_hidden_state[0] for part in _rows(texts)]
    theirs = np.stack([row.mean(0).double().numpy() for row in hidden])
    for islands in (frozenset[str](), find_islands(graph, maxima, "fp16")):
        emissions, models = models_of(architecture, card, tmp_path, target, "fp16", islands)
        session = TargetSession(emissions, [RoundingGraph(spell_out(part), tmp_path) for part in models], {})
        with np.errstate(invalid="ignore"):
            ours = session.run(texts).astype(np.float64)
            cosines = np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        worst[bool(islands)] = float(np.min(cosines))
    assert not worst[False] >= 0.9999  # NaN fails this comparison
    assert worst[True] >= 0.9999


def _rows(texts: Encodings) -> list[np.ndarray[Any, Any]]:
    return np.split(texts.ids, texts.offsets[1:-1])
