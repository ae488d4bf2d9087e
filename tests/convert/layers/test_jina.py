"""JinaBERT layer by layer: Fletcher's torch model compared with the tests' restatement, and the verifier that uses it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.reference.jina import load_jina
from fletcher.convert.reference.load import load_witness
from fletcher.convert.verify.verify import verify
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import CheckpointError

from ..families.test_jina_bert import HIDDEN, VOCABULARY, Jina
from ..verify.parity import make_card, save_tokenizer
from .models import export_restated
from .sabotage import Patient

KINDS: dict[str, tuple[int, bool, dict[str, Any]]] = {
    "v2": (8, False, {}),
    "v2_six_heads": (6, False, {"feed_forward_type": "reglu", "layer_norm_eps": 1e-3}),
    "qk_post_norm": (8, True, {}),
    "qk_post_norm_six_heads": (6, True, {"feed_forward_type": "reglu", "layer_norm_eps": 1e-3}),
}


def restate(kind: str) -> Jina:
    heads, normed, changes = KINDS[kind]
    return Jina(heads, normed=normed, max_position_embeddings=100, **changes)


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def make(kind: str) -> Path:
        return export_restated(restate(kind), tmp_path_factory.mktemp(kind), vocabulary=VOCABULARY, hidden=HIDDEN)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_agrees_with_the_restated_model(tmp_path: Path, kind: str) -> None:
    """Compare two independent implementations with two texts, one of them padded."""
    model = restate(kind)
    loaded = load_jina(model.save(tmp_path))
    ids = torch.arange(5, 5 + 2 * 12).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        output = loaded(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = model(ids, mask).last_hidden_state
        typed = loaded(input_ids=ids, attention_mask=mask, token_type_ids=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(output[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)
    assert (typed - output).abs().max() > 1e-2


def test_a_sharded_checkpoint_with_the_prefix_of_a_head_is_read(tmp_path: Path) -> None:
    folder = restate("v2").save(tmp_path)
    expected = load_jina(folder).state_dict()
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["cls.predictions.bias"] = torch.zeros(VOCABULARY)
    (folder / "model.safetensors").unlink()
    names, half = sorted(tensors), len(tensors) // 2
    shards = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    places = ", ".join(f'"{name}": "{file}"' for file, part in shards.items() for name in part)
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{places}}}}}')
    for name, tensor in load_jina(folder).state_dict().items():
        assert tensor.equal(expected[name])


@pytest.mark.parametrize(
    ("changes", "tensors", "named"),
    [
        ({"feed_forward_type": "original"}, {}, "feed_forward_type"),
        ({}, {"encoder.layer.0.mlp.wo.bias": None}, r"mlp\.wo\.bias"),
        ({}, {"encoder.layer.0.surplus.weight": torch.zeros(1)}, r"surplus\.weight"),
        ({}, {"encoder.layer.1.mlp.layernorm.weight": torch.zeros(3)}, r"layernorm\.weight"),
    ],
)
def test_other_checkpoints_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], tensors: dict[str, torch.Tensor | None], named: str
) -> None:
    folder = restate("v2").save(tmp_path, **changes)
    save_tokenizer(folder, VOCABULARY)
    changed = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=named):
        load_witness(folder, make_card(folder, HIDDEN, 24))


@pytest.mark.parametrize("kind", KINDS)
def test_an_intact_artifact_agrees_at_every_point(artifact_of: Callable[[str], Path], kind: str) -> None:
    report = verify_layers(artifact_of(kind))
    assert report.first is None and report.verdict == "passed", report.summary
    keys = {point.key for point in report.points}
    normed = {"layers.1/attention/query/norm", "layers.1/attention/residual_again", "layers.1/attention/norm_again"}
    assert normed <= keys if "norm" in kind else normed.isdisjoint(keys)
    assert {"layers.1/attention/biased_scores", "layers.1/feed_forward/gate", "layers.1/feed_forward/gated"} <= keys


def test_vectors_are_verified_and_stamped(artifact_of: Callable[[str], Path], tmp_path: Path) -> None:
    patient = Patient.copy_of(artifact_of("v2"), tmp_path / "copy")
    assert verify(patient.path).verdict == "passed"
    assert Artifact.open(patient.path).manifest.verified is not None


def _swap_halves(patient: Patient) -> None:
    """Apply the gate's activation to the other half."""
    patient.swap_weights("encoder.layer.0.mlp.gated_layers.gate.weight", "encoder.layer.0.mlp.gated_layers.up.weight")


def _double_slopes(patient: Patient) -> None:
    """Use the slopes of a model with half as many heads."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if not tensor.external_data and tensor.data_type == onnx.TensorProto.FLOAT and 8 in tensor.dims:
                tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))

    patient.edit(change)


HARMS: dict[str, tuple[str, Callable[[Patient], None], str]] = {
    "ALiBi removed": ("v2", lambda patient: patient.set_input("Attention", 3, ""), "layers.0/attention/biased_scores"),
    "wrong slopes": ("v2", _double_slopes, "layers.0/attention/biased_scores"),
    "gate and value swapped": ("v2", _swap_halves, "layers.0/feed_forward/up"),
    "norm of the query removed": (
        "qk_post_norm",
        lambda patient: patient.replace(
            "encoder.layer.1/attention/query/norm", "Identity", ["encoder.layer.1/attention/query"]
        ),
        "layers.1/attention/query/norm",
    ),
    "second residual removed": (
        "qk_post_norm",
        lambda patient: patient.replace(
            "encoder.layer.0/attention/residual_again", "Identity", ["encoder.layer.0/attention/norm"]
        ),
        "layers.0/attention/residual_again",
    ),
    "a norm's epsilon": (
        "qk_post_norm",
        lambda patient: patient.set_attribute(
            "LayerNormalization", "epsilon", 1e-1, within="encoder.layer.1/attention/norm_again"
        ),
        "layers.1/attention/norm_again",
    ),
    "a transposed weight": (
        "v2",
        lambda patient: patient.edit_weight("encoder.layer.1.attention.output.dense.weight", np.transpose),
        "layers.1/attention/output",
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_damaged_graph_is_reported_at_its_point(
    artifact_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    kind, harm, key = HARMS[name]
    patient = Patient.copy_of(artifact_of(kind), tmp_path / "broken")
    harm(patient)
    value = verify_layers(patient.path).first_in("values")
    assert value is not None and (value.key, value.verdict) == (key, "failed")
