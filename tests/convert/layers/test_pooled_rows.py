"""`model verify --layers` of models that pool one token: their last layer is compared on the rows that it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from fletcher.convert.layers.verify import compare_variants, verify_layers

from .models import save_artifact
from .sabotage import Patient, node_of

#: Warnings from torch and its users, and from the verification, which cannot run a device's session on this machine.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:the graph was compared, and the served session"
)

LAYER = "encoder.layer.2"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of a BERT with pooling of the first token, for two targets."""
    return save_artifact("bert", tmp_path_factory.mktemp("bert"), "cls", ("cpu", "tensorrt"))


#: Families by the kinds of their last layers: plain, with a norm and a window before, grouped heads, a convolution, a gate.
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("modernbert", "cls"),
        pytest.param("mpnet", "cls", marks=pytest.mark.slow),
        ("qwen3", "lasttoken"),
        pytest.param("lfm2", "lasttoken", marks=pytest.mark.slow),
        pytest.param("embedding_gemma2", "cls", marks=pytest.mark.slow),
        pytest.param("longformer", "lasttoken", marks=pytest.mark.slow),
    ],
)
def test_the_last_layer_is_compared_on_the_pooled_rows(tmp_path: Path, family: str, mode: str) -> None:
    report = verify_layers(save_artifact(family, tmp_path, mode))
    assert report.first is None, report.summary
    rows = {point.key: point.shape[0] for point in report.points if point.section == "values"}
    last = max(point.layer for point in report.points if point.layer is not None)
    assert rows[f"layers.{last}/feed_forward/down"] == rows[f"layers.{last}/feed_forward/residual"] == "texts"
    assert rows[f"layers.{last - 1}/feed_forward/down"] == "tokens"
    assert rows.get("final_norm", "texts") == "texts"


def test_values_of_each_kind_are_compared(bert: Path) -> None:
    report = verify_layers(bert)
    assert report.first is None, report.summary
    shapes = {point.key: point.shape for point in report.points}
    assert shapes["layers.2/attention/query"] == ("tokens", 48)
    assert shapes["layers.2/attention/softmax"] == ("texts", 4, 1, "longest")
    assert shapes["layers.1/attention/softmax"] == ("texts", 4, "longest", "longest")
    assert shapes["layers.2/attention/context"] == shapes["layers.2/feed_forward/norm"] == ("texts", 48)
    # The last layer has as many points as the one before it.
    keys = [[key for key in shapes if key.startswith(f"layers.{layer}/")] for layer in (1, 2)]
    assert len(keys[0]) == len(keys[1])


@pytest.mark.parametrize(("against", "on"), [("cpu-fp32", "tensorrt-fp32"), ("tensorrt-fp32", "cpu-fp32")])
def test_graphs_that_compute_different_rows_of_the_last_layer_are_compared(bert: Path, against: str, on: str) -> None:
    report = compare_variants(bert, against=against, on=on)
    assert report.first is None, report.summary
    shapes = {point.key: point.shape for point in report.points}
    assert shapes["layers.2/attention/softmax"] == ("texts", 4, 1, "longest")
    assert shapes["layers.2/attention/context"] == shapes["layers.2/feed_forward/down"] == ("texts", 48)


def _forget_lengths(patient: Patient) -> None:
    def change(model: onnx.ModelProto) -> None:
        node_of(model, f"{LAYER}/attention/context_row").input[6] = ""

    patient.edit(change)


HARMS: dict[str, tuple[Callable[[Patient], None], str]] = {
    "weight of a pooled row": (
        lambda patient: patient.edit_weight(f"{LAYER}.output.dense.weight", lambda weight: weight * 1.001),
        "layers.2/feed_forward/down",
    ),
    "query of another token": (
        lambda patient: patient.replace(
            f"{LAYER}/attention/query/cls", "Gather", [f"{LAYER}/attention/query", "layout/last"]
        ),
        "layers.2/attention/raw_scores",
    ),
    "residual of another token": (
        lambda patient: patient.replace(
            f"{LAYER}/attention/hidden/cls", "Gather", ["encoder.layer.1/feed_forward/norm", "layout/last"]
        ),
        "layers.2/attention/residual",
    ),
    "padding is seen": (_forget_lengths, "layers.2/attention/mask"),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_damaged_last_layer_is_reported_at_its_step(bert: Path, tmp_path: Path, name: str) -> None:
    harm, key = HARMS[name]
    patient = Patient.copy_of(bert, tmp_path / "broken")
    harm(patient)
    value = verify_layers(patient.path).first_in("values")
    assert value is not None
    assert (value.key, value.verdict) == (key, "failed")
