"""Graphs with Fletcher's own operators, spelled out on the processor, compared with transformers in float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from fletcher.convert.layers.points import LAYER_POINTS, Kind, find_points, hidden_points, title_of
from fletcher.convert.precision import Float
from fletcher.convert.targets.cuda.emit import emit_cuda
from fletcher.convert.targets.emit import EXPERT_PARTS, choose, emit_with_kernels
from fletcher.runtime.artifact.graph.operators import EMITTED, FLETCHER, WITH_KERNELS
from fletcher.runtime.artifact.manifest import HALF_VECTORS
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.origin.tolerances import TOLERANCES

from ...families.decoders.models import make_tiny
from ...verify.parity import MIXED, make_card
from ..models import shared
from ..sessions import TargetSession, architecture_of, models_of
from ..support.contrib_operators import spell_out
from ..support.graph_types import assert_kernels
from ..support.rounding import RoundingGraph
from ..tiny import Tiny

#: Models with rows that the operators take: packed rows, gates of three activations, heads of 16 elements with and without
#: norms, grouped heads, sandwich norms, windows.
MODELS: dict[str, Callable[[], Tiny]] = {
    "gte": lambda: shared("gte"),
    "jina_bert": lambda: shared("jina_bert"),
    "nomic_bert": lambda: shared("nomic_bert"),
    "qwen3": lambda: make_tiny("qwen3", intermediate_size=32),
    "gemma3_both": lambda: make_tiny("gemma3_both", intermediate_size=32),
    "ministral3": lambda: make_tiny("ministral3", intermediate_size=32),
}
OPERATORS = {
    "gte": {"GatedActivation": 2, "HeadNormRotary": 2},
    "jina_bert": {"GatedActivation": 2},
    "nomic_bert": {"GatedActivation": 2},
    "qwen3": {"GatedActivation": 3, "HeadNormRotary": 3, "SkipRmsNorm": 7},
    "gemma3_both": {"GatedActivation": 3, "HeadNormRotary": 3, "SkipRmsNorm": 13},
    "ministral3": {"GatedActivation": 3, "HeadNormRotary": 3, "SkipRmsNorm": 7},
}


def _emit(
    tiny: Tiny, folder: Path, precision: Float, pooling: str = "mean", islands: tuple[str, ...] = ()
) -> onnx.ModelProto:
    card = make_card(tiny.save(folder), tiny.hidden, tiny.longest, pooling=(pooling,))
    architecture = architecture_of(folder, card)
    return models_of(architecture, card, folder, "cuda", precision, islands, kernels=True)[1][0]


def _own(model: onnx.ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph.node if node.domain == FLETCHER))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_packed_rows_are_those_of_transformers(tmp_path: Path, name: str, precision: Float) -> None:
    tiny = MODELS[name]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("mean",))
    emissions, (model,) = models_of(architecture_of(tmp_path, card), card, tmp_path, "cuda", precision, kernels=True)
    assert_kernels(model)
    assert _own(model) == OPERATORS[name]
    assert {entry.domain: entry.version for entry in model.opset_import}[FLETCHER] == 1
    written = {(node.domain, node.op_type) for node in model.graph.node}
    assert written <= EMITTED["cuda"] | WITH_KERNELS["cuda"]
    parity = tiny.parity(TargetSession(emissions, [RoundingGraph(spell_out(model), tmp_path)], {}))
    rows = parity.rows([min(length, tiny.longest) for length in (*MIXED, tiny.longest)])
    theirs = parity.huggingface(rows)[:, tiny.hidden : 2 * tiny.hidden].astype(np.float64)
    ours = parity.session.run(Encodings.from_lists(rows)).astype(np.float64)
    cosines = np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert TOLERANCES[precision].min_cosine <= cosines.min() < 1 - 1e-8, cosines.min()


def test_the_list_of_operators_has_no_other(tmp_path: Path) -> None:
    written = set()
    for number, (name, pooling) in enumerate((("qwen3", "lasttoken"), ("gemma3_both", "mean"))):
        model = _emit(MODELS[name](), tmp_path / str(number), "bf16", pooling)
        written |= {(node.domain, node.op_type) for node in model.graph.node}
    assert written - EMITTED["cuda"] == WITH_KERNELS["cuda"]


def test_a_graph_without_kernels_has_the_same_inputs_or_fewer(tmp_path: Path) -> None:
    """The causal operator with kernels reads nothing on the host."""
    tiny = MODELS["qwen3"]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("lasttoken",))
    architecture = architecture_of(tmp_path, card)
    emissions, _ = models_of(architecture, card, tmp_path, "cuda", "bf16", kernels=True)
    assert [info.name for info in emissions[0].graph.inputs] == ["input_ids", "places.lasttoken"]
    assert [info.name for info in emissions[0].graph.outputs] == ["vectors", HALF_VECTORS]


def test_weights_are_stored_once(tmp_path: Path) -> None:
    """No weight is both a part of a joined one and stored by itself."""
    tiny = MODELS["qwen3"]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("lasttoken",))
    architecture = architecture_of(tmp_path, card)
    sizes = {}
    for kernels in (False, True):
        emissions, _ = models_of(architecture, card, tmp_path, "cuda", "bf16", kernels=kernels)
        sizes[kernels] = sum(int(np.prod(weight.shape)) for weight in emissions[0].graph.weights.values())
    assert sizes[True] == sizes[False]


@pytest.mark.parametrize(
    ("islands", "operators"),
    [
        (("layers.1/feed_forward/gated",), {"GatedActivation": 2, "HeadNormRotary": 3, "SkipRmsNorm": 7}),
        # The norms of that layer's heads are rows, too.
        (("layers.1/attention/query/rotated",), {"GatedActivation": 3, "HeadNormRotary": 2, "SkipRmsNorm": 9}),
        (("layers.1/attention/residual",), {"GatedActivation": 3, "HeadNormRotary": 3, "SkipRmsNorm": 7}),
        (("layers.1/feed_forward/norm",), {"GatedActivation": 3, "HeadNormRotary": 3, "SkipRmsNorm": 6}),
    ],
)
def test_parts_that_float16_cannot_hold_stay_in_standard_operators(
    tmp_path: Path, islands: tuple[str, ...], operators: dict[str, int]
) -> None:
    model = _emit(MODELS["qwen3"](), tmp_path, "fp16", islands=islands)
    assert_kernels(model)
    assert _own(model) == operators


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert", "they are not rotated"),
        ("nomic_bert_experts", "the rotation is not that of whole heads"),
        ("static_embedding", "it has no layers"),
    ],
)
def test_a_model_without_a_fitting_part_is_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"can compute no part of this \w+ in bf16 \(.*{reason}.*without --kernels"):
        _emit(shared(name), tmp_path, "bf16")


def test_parts_around_experts_stay_in_standard_operators_of_float32(tmp_path: Path) -> None:
    tiny = MODELS["qwen3"]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest)
    precision = replace(choose("cuda", "bf16"), only=EXPERT_PARTS)
    emission = emit_cuda(architecture_of(tmp_path, card), tiny.hidden, precision, with_kernels=True)
    reason = "experts alone compute in half precision"
    assert emission.gaps == (f"heads of the attention: {reason}", f"feed-forward parts: {reason}")
    assert not any(domain == FLETCHER for domain, _ in emission.graph.operators)


def test_gaps_are_named(tmp_path: Path) -> None:
    tiny = make_tiny("qwen3_window", head_dim=16)
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("lasttoken",))
    architecture = architecture_of(tmp_path, card)
    (emission,) = emit_with_kernels("cuda", architecture, tiny.hidden, tiny.longest, choose("cuda", "bf16"))
    assert emission.gaps == (
        "heads of the attention: the operator of ONNX Runtime for windows has a kernel of its own for them",
        "feed-forward parts: they have 37 elements, not a multiple of 8",
    )
    operators = Counter(node.op_type for node in emission.graph.written)
    assert operators["GroupQueryAttention"] == 2 and operators["Attention"] == 1


@pytest.mark.parametrize("target", ["cpu", "cuda", "tensorrt"])
def test_other_targets_and_fp32_are_as_without_kernels(tmp_path: Path, target: str) -> None:
    tiny = MODELS["qwen3"]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest)
    architecture = architecture_of(tmp_path, card)
    (emission,) = emit_with_kernels(target, architecture, tiny.hidden, tiny.longest, choose(target, "fp32"))
    assert emission.gaps == () and not any(domain == FLETCHER for domain, _ in emission.graph.operators)


def test_values_inside_an_operator_are_named_in_the_comparison_layer_by_layer(tmp_path: Path) -> None:
    model = _emit(MODELS["qwen3"](), tmp_path, "bf16", "lasttoken")
    points = find_points(model)
    keys, hidden = {point.key for point in points}, hidden_points(model, points)
    parts = {f"layers.1/{part}" for part in LAYER_POINTS}
    shown = {
        "attention/query/rotated",
        "attention/key/rotated",
        "attention/value",
        "attention/context",
        "feed_forward/gated",
    }
    assert {f"layers.1/{part}" for part in shown} <= keys
    assert {
        f"layers.1/{part}" for part in ("attention/query/norm", "attention/query", "feed_forward/activation")
    } <= hidden
    assert {key for key in hidden if key.startswith("layers.1/")} <= parts
    assert not any(point.kind is Kind.SCORES for point in points)
    assert all(title_of(point) for point in points) and all(title_of(key) for key in hidden)
