"""Static check of `tensorrt` variants: exported graphs pass, and graphs that would fail on the device are found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from fletcher.convert.export.export import export
from fletcher.convert.targets.tensorrt.check import check_tensorrt
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Profile, TensorInfo, Variant

from ..tiny import save_embedder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users

Break = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("check") / "checkpoint"
    save_embedder(folder)
    path = folder.parent / "artifact"
    export(str(folder), path, targets=("tensorrt",), precisions=("fp32", "fp16", "bf16"))
    return Artifact.open(path)


@pytest.fixture
def broken(intact: Artifact, tmp_path: Path) -> Callable[[Break], Artifact]:
    """Return a function that copies the artifact and changes its fp16 graph."""

    def make(change: Break) -> Artifact:
        path = Path(shutil.copytree(intact.path, tmp_path / "broken"))
        file = path / intact.variant("tensorrt-fp16").file
        model = onnx.load(file, load_external_data=False)
        change(model)
        file.write_bytes(model.SerializeToString())
        return Artifact.open(path)

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_exported_graph_passes(intact: Artifact, precision: str) -> None:
    assert check_tensorrt(intact, intact.variant(f"tensorrt-{precision}")) == []


def contrib(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    node.domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def unknown(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "Hardmax"


def mixed(model: onnx.ModelProto) -> None:
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    to = next(attribute for attribute in cast.attribute if attribute.name == "to")
    to.i = TensorProto.DOUBLE if to.i == TensorProto.FLOAT else TensorProto.FLOAT


def renamed(model: onnx.ModelProto) -> None:
    (input_ids,) = [value for value in model.graph.input if value.name == "input_ids"]
    input_ids.name = "ids"
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (contrib, "com.microsoft.Gelu, which TensorRT's parser does not know"),
        (unknown, "ai.onnx.Hardmax, which TensorRT's parser does not know"),
        (mixed, "the types disagree"),
        (renamed, "the graph's inputs are ids int32"),
    ],
)
def test_a_damaged_graph_is_found(broken: Callable[[Break], Artifact], change: Break, problem: str) -> None:
    artifact = broken(change)
    problems = check_tensorrt(artifact, artifact.variant("tensorrt-fp16"))
    assert any(problem in text for text in problems), problems


def test_a_type_that_tensorrt_lacks_is_found(broken: Callable[[Break], Artifact]) -> None:
    def doubled(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Cast", ["vectors"], ["wide"], name="wide", to=TensorProto.DOUBLE))

    artifact = broken(doubled)
    assert check_tensorrt(artifact, artifact.variant("tensorrt-fp16")) == [
        "wide is double, which is not a type of TensorRT"
    ]


def without(name: str) -> Callable[[Profile], Profile]:
    return lambda profile: Profile(
        profile.min, profile.opt, {key: shape for key, shape in profile.max.items() if key != name}
    )


def with_max(**shapes: tuple[int, ...]) -> Callable[[Profile], Profile]:
    return lambda profile: Profile(profile.min, profile.opt, {**profile.max, **shapes})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without("input_ids"), "profile 0: input_ids has free sizes and no max"),
        (with_max(input_ids=(256, 5)), "profile 0: input_ids goes from 1 over 10 to 5"),
        (with_max(input_ids=(256, 20, 1)), "profile 0: input_ids has 2 sizes"),
        (with_max(input_ids=(300, 20)), "profile 0: texts is 256 and 300 at max"),
        (with_max(ids=(256, 20)), "profile 0: ids is not an input"),
    ],
)
def test_an_incomplete_profile_is_found(intact: Artifact, change: Callable[[Profile], Profile], problem: str) -> None:
    variant = intact.variant("tensorrt-fp16")
    changed = msgspec.structs.replace(variant, profiles=tuple(map(change, variant.profiles)))
    problems = check_tensorrt(intact, changed)
    assert any(text.startswith(problem) for text in problems), problems


def test_a_missing_profile_is_found(intact: Artifact) -> None:
    variant = msgspec.structs.replace(intact.variant("tensorrt-fp16"), profiles=())
    assert check_tensorrt(intact, variant) == ["there are no profiles: an engine would be built for every shape"]


def test_fixed_sizes_must_agree(intact: Artifact) -> None:
    variant: Variant = intact.variant("tensorrt-fp16")
    first, *others = variant.inputs
    fixed = msgspec.structs.replace(variant, inputs=(TensorInfo(first.name, first.dtype, ("texts", 7)), *others))
    assert any("input_ids is 7 in the graph, and 1 to 20 here" in text for text in check_tensorrt(intact, fixed))
