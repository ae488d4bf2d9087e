"""Graphs that Fletcher does not write are rejected before a provider opens them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fletcher import Encoder
from fletcher.runtime.artifact.folder import MANIFEST, Artifact
from fletcher.runtime.artifact.graph.check import check_graph
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.errors import ArtifactError, ChecksumError
from fletcher.runtime.providers.opening import open_session

Change = Callable[[onnx.ModelProto], object]


def save(folder: Path, data: bytes) -> Artifact:
    """Write another graph, with its size and sha256 in the manifest, as an attacker would."""
    artifact = Artifact.open(folder)
    file = artifact.variant().file
    (folder / file).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][file] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.pop("checksum", None)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Artifact.open(folder)


def change(folder: Path, edit: Change) -> Artifact:
    artifact = Artifact.open(folder)
    model = onnx.load(folder / artifact.variant().file, load_external_data=False)
    edit(model)
    return save(folder, model.SerializeToString())


def weight(model: onnx.ModelProto) -> TensorProto:
    tensor: TensorProto = next(each for each in model.graph.initializer if each.data_location == TensorProto.EXTERNAL)
    return tensor


def place(key: str, value: str) -> Change:
    def edit(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in weight(model).external_data if entry.key == key)
        entry.value = value

    return edit


def node(operator: str, domain: str = "", **attributes: Any) -> Change:
    return lambda model: model.graph.node.append(
        helper.make_node(operator, [model.graph.node[0].output[0]], ["planted"], domain=domain, **attributes)
    )


def body() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "body", [value], [value])


def memory_tag(model: onnx.ModelProto) -> None:
    """Name memory of the process as ONNX Runtime does inside it, and OpenVINO honors it in files: an address as offset."""
    place("location", "*/_ORT_MEM_ADDR_/*")(model)
    place("offset", "4096")(model)


def constant_outside(model: onnx.ModelProto) -> None:
    tensor = TensorProto()
    tensor.CopyFrom(weight(model))
    model.graph.node.append(helper.make_node("Constant", [], ["planted"], value=tensor))


def attribute_outside(model: onnx.ModelProto) -> None:
    """Hide external data in an attribute of an operator that is allowed."""
    tensor = TensorProto()
    tensor.CopyFrom(weight(model))
    model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def more_data(model: onnx.ModelProto) -> None:
    tensor = weight(model)
    tensor.external_data.add(key="location", value="/etc/passwd")


ATTACKS: dict[str, tuple[Change, str]] = {
    "memory": (memory_tag, "is in '\\*/_ORT_MEM_ADDR_/\\*', not in"),
    "absolute path": (place("location", "/etc/passwd"), "is in '/etc/passwd', not in"),
    "parent folder": (place("location", "../secret"), "is in '../secret', not in"),
    "the tokenizer": (place("location", "tokenizer.json"), "is in 'tokenizer.json', not in"),
    "two places": (more_data, "has two places"),
    "offset behind the end": (place("offset", "99999999999"), "ends behind the"),
    "negative offset": (place("offset", "-8"), "is at '-8'"),
    "offset in other digits": (place("offset", "٣"), "is at '\\\\u0663'"),
    "longer than its shape": (place("length", "8"), "has 8 bytes of weights, its shape needs"),
    "negative size": (lambda model: weight(model).dims.__setitem__(0, -1), "has the shape"),
    "huge size": (lambda model: weight(model).dims.extend([2**20, 2**20]), "has the shape"),
    "text as elements": (lambda model: setattr(weight(model), "data_type", TensorProto.STRING), "the element type 8"),
    "external constant": (constant_outside, "may not be outside the graph"),
    "external attribute": (attribute_outside, "may not be outside the graph"),
    "Loop": (node("Loop", body=body()), "such as a graph inside a node"),
    "If": (node("If", then_branch=body(), else_branch=body()), "such as a graph inside a node"),
    "subgraph of an allowed operator": (node("Identity", planted=body()), "such as a graph inside a node"),
    "random numbers": (node("RandomNormalLike"), "the operator RandomNormalLike is not one of the target cpu"),
    "a large value": (node("ConstantOfShape"), "the operator ConstantOfShape is not one of the target cpu"),
    "a provider's own engine": (node("EPContext", "com.microsoft"), "com.microsoft.EPContext is not one of the target"),
    "own domain": (node("Add", "evil"), "the operator evil.Add is not one of the target"),
    "function": (
        lambda model: model.functions.append(helper.make_function("f", "g", ["x"], ["x"], [], [])),
        "a model has the field 25",
    ),
    "metadata": (lambda model: model.metadata_props.add(key="ort_config", value="{}"), "a model has the field 14"),
    "training": (lambda model: model.training_info.add(), "a model has the field 20"),
    "sparse": (lambda model: model.graph.sparse_initializer.add(), "a graph has the field 15"),
    "operator set": (lambda model: model.opset_import.add(domain="evil", version=1), "the operator set 'evil'"),
    "format": (lambda model: setattr(model, "ir_version", 99), "its format has the version 99"),
    "control character": (lambda model: setattr(model.graph.node[0], "name", "a\x1b[2J"), "has a control character"),
    "null": (lambda model: setattr(model.graph.node[0], "name", "a\x00b"), "has a control character"),
    "long name": (lambda model: setattr(model.graph.node[0], "name", "a" * 5000), "at most 1024 are allowed"),
    "other outputs": (
        lambda model: model.graph.output.append(helper.make_tensor_value_info("embeddings/word", 1, None)),
        "its outputs are .*, and the manifest says",
    ),
    "elements missing": (
        lambda model: model.graph.initializer.append(
            TensorProto(name="planted", data_type=TensorProto.FLOAT, dims=[1000], raw_data=b"1234")
        ),
        "has 4 bytes, its shape needs 4000",
    ),
}


@pytest.mark.parametrize("provider", ["mlas", "openvino"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_planted_part_is_rejected_by_name(own_artifact: Path, attack: str, provider: str) -> None:
    edit, message = ATTACKS[attack]
    artifact = change(own_artifact, edit)
    with pytest.raises(ArtifactError, match=message):
        open_session(artifact, artifact.variant(), provider=provider)


def test_a_load_rejects_it_too(own_artifact: Path) -> None:
    change(own_artifact, memory_tag)
    with pytest.raises(ArtifactError, match="so it is not opened"):
        Encoder.load(own_artifact)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no graph"),
        (b"\x3a\x00\x3a\x00", "its inputs are none"),
        (b"\x0b\x0c", "the wire type 3"),
        (b"\x3a\xff", "does not end, or has more than 64 bits"),
        (b"\x3a\x7f", "ends behind its message"),
        (b"\x08" + b"\xff" * 20, "has more than 64 bits"),
        (b"\x00\x00", "has the number 0"),
        (b"\x08\x0b\x08\x0b", "the field 1 twice"),
    ],
)
def test_bytes_that_are_not_a_graph_are_rejected(own_artifact: Path, data: bytes, message: str) -> None:
    artifact = save(own_artifact, data)
    with pytest.raises(ArtifactError, match=message):
        read_graph(artifact, artifact.variant())


def test_two_graphs_are_not_merged(own_artifact: Path) -> None:
    """Protocol Buffers merge a field that comes twice, so a second graph would add nodes to the first."""
    artifact = Artifact.open(own_artifact)
    data = (own_artifact / artifact.variant().file).read_bytes()
    twice = (
        data + onnx.ModelProto(graph=onnx.GraphProto(node=[helper.make_node("Loop", ["a"], ["b"])])).SerializeToString()
    )
    assert len(onnx.load_model_from_string(twice).graph.node) == 1 + len(onnx.load_model_from_string(data).graph.node)
    artifact = save(own_artifact, twice)
    with pytest.raises(ArtifactError, match="the field 7 twice"):
        read_graph(artifact, artifact.variant())


def test_the_read_bytes_have_the_manifests_digest(own_artifact: Path) -> None:
    artifact = Artifact.open(own_artifact)
    file = own_artifact / artifact.variant().file
    file.write_bytes(file.read_bytes() + b"\x12\x00")
    with pytest.raises(ChecksumError, match="another sha256"):
        open_session(artifact, artifact.variant())


def test_small_tensors_inside_are_accepted(own_artifact: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "planted")
    artifact = change(own_artifact, lambda model: model.graph.initializer.append(tensor))
    check_graph(read_graph(artifact, artifact.variant()), artifact.variant(), 10**9)
