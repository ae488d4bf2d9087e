"""`model verify --layers` of the heads of SPLADE, ColBERT and rerankers, step by step, intact and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from fletcher.convert.layers.results import LayersReport
from fletcher.convert.layers.verify import compare_variants, verify_layers
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import write_manifest

from ..heads import test_colbert, test_splade
from ..heads.tiny import SIZES, convert
from .sabotage import Patient

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users

SPLADE_STEPS = ["modules.0/dense", "modules.0", "modules.1", "modules.2", "modules.3", "modules.4"]


def steps_of(report: LayersReport) -> list[str]:
    return [point.key for point in report.points if point.key.startswith("modules.")]


def first_wrong(patient: Patient) -> str:
    value = verify_layers(patient.path).first_in("values")
    assert value is not None and value.verdict == "failed"
    return value.key


@pytest.mark.parametrize(("family", "sizes"), test_splade.FAMILIES)
def test_a_masked_lm_head_is_compared_step_by_step(tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    artifact = convert(test_splade.make(tmp_path / "model", family, sizes), "splade").path
    report = verify_layers(artifact)
    assert report.first is None, report.summary
    assert steps_of(report) == SPLADE_STEPS
    shapes = {point.key: point.shape for point in report.points}
    assert shapes["modules.2"] == ("tokens", SIZES["vocab_size"]) and shapes["modules.3"][0] == "texts"
    assert report.points[-1].key == "session/sparse"


SPLADE_HARMS: dict[str, tuple[Callable[[Patient], None], str]] = {
    "transform's weight": (
        lambda patient: patient.edit_weight("cls.predictions.transform.dense.weight", np.transpose),
        "modules.0/dense",
    ),
    "tanh GELU": (lambda patient: patient.replace("modules.0/activation", "Tanh", ["modules.0/dense"]), "modules.0"),
    "epsilon": (
        lambda patient: patient.set_attribute("LayerNormalization", "epsilon", 1e-2, within="modules.1"),
        "modules.1",
    ),
    "decoder's bias": (lambda patient: patient.edit_weight("cls.predictions.bias", np.negative), "modules.2"),
    "no maximum": (
        lambda patient: patient.replace("modules.3/max", "Gather", ["modules.2/logits", "layout/starts"]),
        "modules.3",
    ),
    "no relu": (lambda patient: patient.replace("modules.4/relu", "Abs", ["modules.3/max"]), "modules.4"),
}


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(test_splade.make(tmp_path_factory.mktemp("splade") / "model"), "splade").path


@pytest.mark.parametrize("name", SPLADE_HARMS)
def test_a_damaged_masked_lm_head_is_reported_at_its_step(splade: Path, tmp_path: Path, name: str) -> None:
    harm, key = SPLADE_HARMS[name]
    patient = Patient.copy_of(splade, tmp_path / "broken")
    harm(patient)
    assert first_wrong(patient) == key


def _token_vectors(folder: Path, kind: str) -> Path:
    if kind == "sentence-transformers":
        return test_colbert.make(folder, expansion={"strategy": "fixed", "length": 9}, skipped=list(".,!?-"))
    return {"pylate": test_colbert.pylate, "stanford": test_colbert.stanford}[kind](folder)


@pytest.mark.parametrize("kind", ["sentence-transformers", "pylate", "stanford"])
def test_token_vectors_are_compared_step_by_step(tmp_path: Path, kind: str) -> None:
    """Queries with expansion tokens are included: no token attends to the expansion tokens, on either side."""
    artifact = convert(_token_vectors(tmp_path / "model", kind)).path
    report = verify_layers(artifact)
    assert report.first is None, report.summary
    assert steps_of(report) == ["modules.0/dense", "modules.0", "modules.1"]
    assert {point.key: point.shape for point in report.points}["modules.1"] == ("tokens", test_colbert.DIMENSION)
    assert "tokens/skipped_tokens" in {point.key for point in report.points if point.section == "tokens"}
    assert (report.points[-1].key, report.points[-1].shape[0]) == ("session/token_vectors", "tokens")
    assert report.batches[-1] == (6, 11)  # with three expansion tokens


def _see_the_filling(patient: Patient) -> None:
    """Let every token attend to the expansion tokens of a query."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Attention":
                node.input[6] = "layout/lengths"

    patient.edit(change)


COLBERT_HARMS: dict[str, tuple[Callable[[Patient], None], str]] = {
    "projection": (lambda patient: patient.edit_weight("linear.weight", np.negative), "modules.0/dense"),
    "not normalized": (
        lambda patient: patient.replace("modules.1/normalized", "Identity", ["modules.0/dense"]),
        "modules.1",
    ),
    "filling is seen": (_see_the_filling, "layers.0/attention/mask"),
}


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(test_colbert.stanford(tmp_path_factory.mktemp("colbert") / "model")).path


@pytest.mark.parametrize("name", COLBERT_HARMS)
def test_damaged_token_vectors_are_reported_at_their_step(colbert: Path, tmp_path: Path, name: str) -> None:
    harm, key = COLBERT_HARMS[name]
    patient = Patient.copy_of(colbert, tmp_path / "broken")
    harm(patient)
    assert first_wrong(patient) == key


def test_a_token_that_only_one_side_skips_is_reported_as_the_first_point(colbert: Path, tmp_path: Path) -> None:
    patient = Patient.copy_of(colbert, tmp_path / "broken")
    manifest = Artifact.open(patient.path).manifest
    late_interaction = manifest.card.late_interaction
    assert late_interaction is not None
    late_interaction = msgspec.structs.replace(
        late_interaction, skipped=tuple(name for name in late_interaction.skipped if name != "!")
    )
    card = msgspec.structs.replace(manifest.card, late_interaction=late_interaction)
    write_manifest(patient.path, msgspec.structs.replace(manifest, card=card))
    first = verify_layers(patient.path).first
    assert first is not None and first.key == "tokens/skipped_tokens"
    assert "the checkpoint alone skips the id 9 in a document" in first.note


@pytest.mark.parametrize("head", ["splade", "colbert"])
def test_two_variants_with_a_head_are_compared(
    head: str, splade: Path, colbert: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Values of equal graphs are bitwise equal at every point of the head."""
    source = {"splade": splade, "colbert": colbert}[head]
    patient = Patient.copy_of(source, tmp_path / "twins")
    manifest = Artifact.open(patient.path).manifest
    other = msgspec.structs.replace(manifest.variants[0], name="cpu-other")
    write_manifest(patient.path, msgspec.structs.replace(manifest, variants=(*manifest.variants, other)))
    report = compare_variants(patient.path, against="cpu-fp32", on="cpu-other")
    assert report.first is None and {point.relative for point in report.points if point.section == "values"} == {0.0}
    assert "modules.1" in steps_of(report)
