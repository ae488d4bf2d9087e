"""`model verify --layers`, `--against` and `--on` of graphs for devices, on a machine without a device.

Operators and types that the CPU provider lacks are replaced in the probed graph only: packed attention follows the
operator's contract, and half types are computed in float32 with each node's result rounded, the most exact result that a
device can give.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from fletcher.convert.export.export import export
from fletcher.convert.layers import probe as probe_module
from fletcher.convert.layers.verify import compare_variants, verify_layers
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import MissingPackageError
from fletcher.runtime.providers.inspection import InspectionSession

from ..families.test_jina_bert import HIDDEN, VOCABULARY, Jina
from ..targets.support.contrib_operators import spell_out
from ..targets.support.rounding import round_every_node
from ..verify.parity import save_tokenizer
from .models import MODELS, export_mean, save_artifact
from .sabotage import Patient

#: Warnings from torch and its users, and from the verification, which cannot run a device's session on this machine.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:the graph was compared, and the served session"
)

#: Families that always run: a learned bias, and rotation with windows. The others run with `-m slow`.
QUICK = ("mpnet", "modernbert")
FAMILIES = [
    family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in (*MODELS, "jina_bert")
]

#: Values that the graphs for devices of every family have. Kernels do not show their inner values.
POINTS = {
    "layers.0/attention/context",
    "layers.1/attention/context",
    "layers.1/feed_forward/norm",
    "modules.0",
    "modules.1",
}

#: Points of layers that have a convolution instead of an attention.
NO_ATTENTION = {"lfm2": {"layers.0/attention/context"}}


def _open(graph: bytes, weights_folder: Path, target: Any) -> InspectionSession:
    if target == "cpu":
        return InspectionSession(graph, weights_folder, target)
    model = onnx.load_from_string(graph)
    for info in model.graph.output:  # the probe leaves its type to ONNX Runtime, but shape inference needs the type
        if not info.type.tensor_type.elem_type:
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    spelled = spell_out(model)
    return InspectionSession(round_every_node(spelled).SerializeToString(), weights_folder, "cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a GPU."""
    monkeypatch.setattr(probe_module, "InspectionSession", _open)


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a family's artifact for cpu, cuda and tensorrt in every precision, written once."""
    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in folders:
            folder = tmp_path_factory.mktemp(family)
            if family == "jina_bert":
                checkpoint = Jina(8, max_position_embeddings=100).save(folder / "checkpoint")
                save_tokenizer(checkpoint, VOCABULARY)
                export_mean(checkpoint, HIDDEN)
            else:
                save_artifact(family, folder)
            folders[family] = folder / "every"
            targets, precisions = ("cpu", "cuda", "tensorrt"), ("fp32", "fp16", "bf16")
            export(
                str(folder / "checkpoint"),
                folders[family],
                targets=targets,
                precisions=precisions,
                max_tokens=96,
            )
        return folders[family]

    return make


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["cuda-fp32", "cuda-fp16", "cuda-bf16", "tensorrt-bf16"])
def test_a_graph_for_a_device_agrees_with_the_cpu_graph(
    artifact_of: Callable[[str], Path], family: str, variant: str
) -> None:
    report = compare_variants(artifact_of(family), against="cpu-fp32", on=variant)
    assert report.first is None, report.summary
    assert {point.key for point in report.points} >= POINTS - NO_ATTENTION.get(family, set())


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cuda_graph_agrees_with_transformers(artifact_of: Callable[[str], Path], family: str) -> None:
    report = verify_layers(artifact_of(family), variant="cuda-fp32")
    assert report.first is None, report.summary
    assert {point.key for point in report.points} >= POINTS - NO_ATTENTION.get(family, set())


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("family", "harm", "key"),
    [
        ("mpnet", lambda patient: patient.set_input("PackedMultiHeadAttention", 6, ""), "layers.0/attention/context"),
        (
            "mpnet",
            lambda patient: patient.set_attribute("PackedMultiHeadAttention", "scale", 1.0, within="encoder.layer.1"),
            "layers.1/attention/context",
        ),
        (
            "modernbert",
            lambda patient: patient.set_attribute("RotaryEmbedding", "interleaved", 0),
            "layers.0/attention/context",
        ),
    ],
)
def test_a_damaged_cuda_graph_is_reported_at_the_end_of_attention(
    artifact_of: Callable[[str], Path], tmp_path: Path, family: str, harm: Callable[[Patient], None], key: str
) -> None:
    """The kernel does not show its scores: an error in the scores appears in the context."""
    patient = Patient(Patient.copy_of(artifact_of(family), tmp_path / "broken").path, "cuda-fp32.onnx")
    harm(patient)
    for report in (
        compare_variants(patient.path, against="cpu-fp32", on="cuda-fp32"),
        verify_layers(patient.path, variant="cuda-fp32"),
    ):
        assert report.first is not None and report.first.key == key


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="is about a machine without it"
)
def test_without_the_device_the_provider_is_named(artifact_of: Callable[[str], Path]) -> None:
    path = artifact_of("mpnet")
    assert "cuda-fp32" in {variant.name for variant in Artifact.open(path).manifest.variants}
    with pytest.raises(MissingPackageError, match="running on an NVIDIA GPU needs the package onnxruntime-gpu"):
        compare_variants(path, against="cpu-fp32", on="cuda-fp32")
