"""Test of the verifier: a graph damaged in twelve ways, and each damage reported at its point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.layers.results import LayersReport
from fletcher.convert.layers.verify import verify_layers
from fletcher.runtime.errors import VerificationError

from .models import MODELS, RMS_NORMED, save_artifact
from .sabotage import Patient

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users

LAYER = "encoder.layer.0"


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the intact artifact of a family, written once."""
    artifacts: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in artifacts:
            artifacts[family] = save_artifact(family, tmp_path_factory.mktemp(family))
        return artifacts[family]

    return make


@dataclass(frozen=True)
class Case:
    """`Case`: a way to damage a graph.

    Attributes:
        family: family of the model.
        harm: function that does the damage.
        key: key of the first value that must be wrong.
        node: node that gives that value.
        weight: weight that must be named before the value, if the damage is in the weights file.
        note: expected note on the weight.
    """

    family: str
    harm: Callable[[Patient], None]
    key: str
    node: str
    weight: str = ""
    note: str = ""


def _drop_token_type(patient: Patient) -> None:
    patient.replace("embeddings/with_token_type", "Identity", ["embeddings/word"])


def _shift_positions(patient: Patient) -> None:
    padding_id = patient.constant("embeddings/position_ids", 1)
    patient.set_constant("embeddings/position_ids", 1, padding_id + 1)


def _wrong_base(patient: Patient) -> None:
    """Replace the tables of the configured base, 1,000, by those of 10,000; a head has 12 elements."""
    angles = np.outer(np.arange(100), 10_000.0 ** (-np.arange(0, 12, 2) / 12))
    for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
        patient.edit_weight(f"rotary.{name}", lambda weight, table=table: table[: len(weight)])  # type: ignore[misc]


def _wrong_pooling(patient: Patient) -> None:
    patient.replace("modules.0/mean", "Gather", [f"{LAYER[:-1]}2/feed_forward/norm", "layout/starts"])


CASES: dict[str, Case] = {
    "token-type row dropped": Case(
        "bert",
        _drop_token_type,
        "embeddings/with_token_type",
        "embeddings/with_token_type",
        weight="embeddings.token_type_embeddings.weight.0",
        note="no node of the graph uses it",
    ),
    "RoBERTa positions shifted": Case("roberta", _shift_positions, "embeddings/position", "embeddings/position"),
    "RoPE interleaving swapped": Case(
        "nomic_bert",
        lambda patient: patient.set_attribute("RotaryEmbedding", "interleaved", 1),
        "layers.0/attention/query/rotated",
        "encoder.layers.0/attention/query/rotated",
    ),
    "wrong RoPE base": Case(
        "nomic_bert",
        _wrong_base,
        "layers.0/attention/query/rotated",
        "encoder.layers.0/attention/query/rotated",
        weight="rotary.cos",
    ),
    "MPNet bias removed": Case(
        "mpnet",
        lambda patient: patient.set_input("Attention", 3, ""),
        "layers.0/attention/biased_scores",
        f"{LAYER}/attention/context_rectangle",
    ),
    "scale missing": Case(
        "bert",
        lambda patient: patient.set_attribute("Attention", "scale", 1.0, within="encoder.layer.1"),
        "layers.1/attention/scaled_scores",
        "encoder.layer.1/attention/context_rectangle",
    ),
    "tanh GELU for erf": Case(
        "bert",
        lambda patient: patient.set_attribute("Gelu", "approximate", "tanh"),
        "layers.0/feed_forward/activation",
        f"{LAYER}/feed_forward/activation",
    ),
    "mask ignored": Case(
        "bert",
        lambda patient: patient.set_input("Attention", 6, ""),
        "layers.0/attention/mask",
        f"{LAYER}/attention/context_rectangle",
    ),
    "window ignored": Case(
        "modernbert",
        lambda patient: patient.set_input("Attention", 3, ""),
        "layers.1/attention/mask",
        "layers.1/attention/context_rectangle",
    ),
    "causal mask ignored": Case(
        "qwen3_window",
        lambda patient: patient.set_attribute("Attention", "is_causal", 0),
        "layers.0/attention/mask",
        "layers.0/attention/context_rectangle",
    ),
    "head norm on the whole width": Case(
        "qwen3_window",
        lambda patient: patient.set_attribute("RMSNormalization", "epsilon", 1e-2, within="layers.1/attention/query"),
        "layers.1/attention/query/norm",
        "layers.1/attention/query/norm",
    ),
    "wrong pooling": Case("bert", _wrong_pooling, "modules.0", "modules.0/mean"),
    "eps wrong everywhere": Case(
        "bert",
        lambda patient: patient.set_attribute("LayerNormalization", "epsilon", 1e-5),
        "embeddings/norm",
        "embeddings/norm",
    ),
    "eps wrong in one layer": Case(
        "bert",
        lambda patient: patient.set_attribute(
            "LayerNormalization", "epsilon", 1e-3, within="encoder.layer.2/attention"
        ),
        "layers.2/attention/norm",
        "encoder.layer.2/attention/norm",
    ),
    "transposed weight": Case(
        "bert",
        lambda patient: patient.edit_weight("encoder.layer.1.attention.output.dense.weight", np.transpose),
        "layers.1/attention/output",
        "encoder.layer.1/attention/output",
        weight="encoder.layer.1.attention.output.dense.weight",
        note="it is transposed",
    ),
    "one layer's weights swapped": Case(
        "bert",
        lambda patient: patient.swap_weights(
            "encoder.layer.1.intermediate.dense.weight", "encoder.layer.2.intermediate.dense.weight"
        ),
        "layers.1/feed_forward/up",
        "encoder.layer.1/feed_forward/up",
        weight="encoder.layer.1.intermediate.dense.weight",
        note="it is encoder.layer.2.intermediate.dense.weight",
    ),
}


#: Models whose points are those of another model here.
SLOW = {*RMS_NORMED, "mt5"} - {"embedding_gemma2", "lfm2", "qwen3_window"}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]
)
def test_an_intact_artifact_agrees_at_every_point(artifact_of: Callable[[str], Path], family: str) -> None:
    report = verify_layers(artifact_of(family))
    assert report.first is None and report.verdict == "passed", report.summary
    report.raise_if_failed()


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_graph_is_reported_at_the_damaged_point(
    artifact_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    patient = Patient.copy_of(artifact_of(case.family), tmp_path / "broken")
    case.harm(patient)
    report = verify_layers(patient.path)
    value = report.first_in("values")
    assert value is not None and (value.key, value.node, value.verdict) == (case.key, case.node, "failed"), value
    _check_first(report, case)
    with pytest.raises(VerificationError, match=rf"first diverges .*node {case.weight or case.node}"):
        report.raise_if_failed()


def _check_first(report: LayersReport, case: Case) -> None:
    """Check that all values before the first wrong one are right and that a wrong weight is the first one named."""
    assert report.first is not None and report.verdict == "failed"
    if case.weight:
        assert (report.first.section, report.first.node) == ("weights", case.weight)
        assert case.note in report.first.note
    else:
        assert report.first.key == case.key
        assert report.first_in("weights") is None and report.first_in("tokens") is None
