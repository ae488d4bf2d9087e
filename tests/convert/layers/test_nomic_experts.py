"""NomicBERT with experts layer by layer: the torch reference against the tests' restatement, and both verifiers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fletcher.convert.export.export import export
from fletcher.convert.layers import probe as probe_module
from fletcher.convert.layers.verify import compare_variants, verify_layers
from fletcher.convert.reference.jina_tasks import load_tensors
from fletcher.convert.reference.load import load_witness
from fletcher.convert.reference.nomic_experts import NomicExperts
from fletcher.convert.verify.verify import verify
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import CheckpointError

from ..families.rotary.test_nomic_bert import EXPERTS, HIDDEN, VOCABULARY, Nomic
from ..verify.parity import make_card, save_tokenizer
from .models import export_restated
from .sabotage import Patient
from .test_devices import _open

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:the graph was compared, and the served session"
)

KINDS: dict[str, dict[str, Any]] = {
    "v2": EXPERTS,
    "one_of_three": EXPERTS | {"moe_top_k": 1, "num_experts": 3},
    "interleaved": EXPERTS | {"rotary_emb_fraction": 0.5, "rotary_emb_interleaved": True, "type_vocab_size": 0},
}


def restate(kind: str) -> Nomic:
    return Nomic(**KINDS[kind] | {"n_positions": 100})


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
    model.save(tmp_path)
    loaded = NomicExperts(model.settings, load_tensors(tmp_path)).eval()
    ids = torch.arange(5, 5 + 2 * 12).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        output = loaded(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = model(ids, mask).last_hidden_state
    torch.testing.assert_close(output[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("encoder.layers.1.mlp.experts.bias", None),
        ("encoder.layers.1.surplus.weight", torch.zeros(1)),
        ("encoder.layers.1.norm2.bias", torch.zeros(3)),
    ],
)
def test_other_checkpoints_are_refused_by_name(tmp_path: Path, name: str, tensor: torch.Tensor | None) -> None:
    folder = restate("v2").save(tmp_path)
    save_tokenizer(folder, VOCABULARY)
    changed = {**load_file(folder / "model.safetensors"), name: tensor}
    save_file({key: value for key, value in changed.items() if value is not None}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_witness(folder, make_card(folder, HIDDEN, 24))


@pytest.mark.parametrize(
    "kind", [kind if kind == "v2" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_an_intact_artifact_agrees_at_every_point(artifact_of: Callable[[str], Path], kind: str) -> None:
    report = verify_layers(artifact_of(kind))
    assert report.first is None and report.verdict == "passed", report.summary
    keys = {point.key for point in report.points}
    experts = {f"layers.1/feed_forward/{name}" for name in ("router/scores", "router/shares", "with_bias", "norm")}
    assert experts | {"layers.0/feed_forward/activation", "layers.1/attention/query/rotated"} <= keys


def test_vectors_are_verified_and_stamped(artifact_of: Callable[[str], Path], tmp_path: Path) -> None:
    patient = Patient.copy_of(artifact_of("v2"), tmp_path / "copy")
    report = verify(patient.path)
    assert report.verdict == "passed" and "restatement of NomicBERT with experts" in report.method
    assert Artifact.open(patient.path).manifest.verified is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuda-fp32", "tensorrt-fp32", "coreml-fp32", "cuda-fp16"])
def test_graphs_for_devices_agree(
    artifact_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """bf16 is left out: its rounding exchanges experts whose shares are nearly equal, as some of random weights are."""
    monkeypatch.setattr(probe_module, "InspectionSession", _open)
    target, precision = name.split("-")
    targets: tuple[Any, ...] = ("cpu", target)
    precisions: tuple[Any, ...] = tuple(dict.fromkeys(("fp32", precision)))
    export(str(artifact_of("v2").with_name("checkpoint")), tmp_path / "device", targets=targets, precisions=precisions)
    variants = Artifact.open(tmp_path / "device").manifest.variants
    variant = [one.name for one in variants if one.target == target and one.precision == precision][-1]
    report = compare_variants(tmp_path / "device", against="cpu-fp32", on=variant)
    assert report.first is None, report.summary
    if precision == "fp32":
        report = verify_layers(tmp_path / "device", variant=variant)
        assert report.first is None, report.summary


HARMS: dict[str, tuple[Callable[[Patient], None], str]] = {
    "the router's weight": (
        lambda patient: patient.edit_weight("encoder.layers.1.mlp.router.layer.weight", lambda weight: 2 * weight),
        "layers.1/feed_forward/router/scores",
    ),
    "softmax over tokens": (
        lambda patient: patient.set_attribute(
            "Softmax", "axis", 0, within="encoder.layers.1/feed_forward/router/shares"
        ),
        "layers.1/feed_forward/router/shares",
    ),
    "an expert's matrix": (
        lambda patient: patient.edit_weight("encoder.layers.1.mlp.experts.mlp.w2.1", np.negative),
        "layers.1/feed_forward/with_bias",
    ),
    "tanh in an expert": (
        lambda patient: patient.set_attribute(
            "Gelu", "approximate", "tanh", within="encoder.layers.1/feed_forward/experts.1"
        ),
        "layers.1/feed_forward/with_bias",
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_damaged_graph_is_reported_at_its_point(
    artifact_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    harm, key = HARMS[name]
    patient = Patient.copy_of(artifact_of("v2"), tmp_path / "broken")
    harm(patient)
    value = verify_layers(patient.path).first_in("values")
    assert value is not None and (value.key, value.verdict) == (key, "failed")
