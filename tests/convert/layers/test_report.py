"""Output of `model verify --layers`: table, JSON, page, exit codes, two variants, and errors."""

from __future__ import annotations

import io
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from rich.console import Console

from fletcher.convert.commands.cli import app
from fletcher.convert.export.export import export
from fletcher.convert.layers import verify as verify_module
from fletcher.convert.layers.results import LayersReport
from fletcher.convert.layers.verify import compare_variants, verify_layers
from fletcher.convert.reports.verification_table import render, write_report
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import describe_files, write_manifest
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, ChecksumError, InputError, ProviderError
from fletcher.runtime.providers.opening import open_session
from tests.command_here import run_here
from tests.look import check_look, check_rendered

from ..heads.tiny import save
from ..verify.parity import randomize
from .models import MODELS, save_artifact
from .sabotage import Patient

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users

POOLERS = ("Bert", "DistilBert", "Albert", "ModernBert", "NomicBert")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artifact("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def broken(artifact: Path) -> Path:
    patient = Patient.copy_of(artifact, artifact.parent / "broken")
    patient.set_attribute("Gelu", "approximate", "tanh")
    return patient.path


@pytest.fixture
def twins(artifact: Path, tmp_path: Path) -> Path:
    """Artifact with a second variant, whose second layer lacks the scale."""
    patient = Patient.copy_of(artifact, tmp_path / "twins")
    (patient.path / "cpu-other.onnx").write_bytes((patient.path / "cpu-fp32.onnx").read_bytes())
    manifest = Artifact.open(patient.path).manifest
    other = msgspec.structs.replace(manifest.variants[0], name="cpu-other", file="cpu-other.onnx")
    both, files = (*manifest.variants, other), describe_files(patient.path)
    write_manifest(patient.path, msgspec.structs.replace(manifest, variants=both, files=files))
    Patient(patient.path, "cpu-other.onnx").set_attribute("Attention", "scale", 1.0, within="encoder.layer.1")
    return patient.path


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return run_here(app, "model", "verify", *args)


def shown(report: LayersReport) -> str:
    stream = io.StringIO()
    Console(width=1000, file=stream).print(render(report))
    return stream.getvalue()


def test_the_table_has_a_row_per_point_and_names_the_first_wrong_one(broken: Path) -> None:
    report = verify_layers(broken)
    text = shown(report)
    row = next(line for line in text.splitlines() if "layer 0: query projection" in line)
    assert "tokens×48" in row and "passed" in row
    assert re.search(r"failed +layer 0: activation ", text)
    assert "bit for bit" in text and "weight encoder" not in text  # equal weights have one row
    assert "first diverges from" in text and "node encoder.layer.0/feed_forward/activation" in text
    assert "batches, in tokens a text: 1, 96, 2+40, 7+7+7, " in text
    points = [point.key for point in report.points if point.section == "values"]
    for name in ("raw_scores", "scaled_scores", "mask", "biased_scores", "softmax", "softmax_sums", "context"):
        assert f"layers.2/attention/{name}" in points


def test_json_and_page_have_every_point_and_need_no_network(broken: Path, tmp_path: Path) -> None:
    report = verify_layers(broken)
    for name in ("report.json", "report.html"):
        write_report(report, tmp_path / name)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["verdict"] == "failed" and content["first"]["node"] == "encoder.layer.0/feed_forward/activation"
    assert len(content["points"]) == len(report.points)
    assert {"point", "node", "shape", "max_abs", "relative", "cosine", "verdict"} <= content["points"][20].keys()
    page = (tmp_path / "report.html").read_text()
    assert "first diverges from" in check_look(page)
    check_rendered(page, tmp_path)
    assert page.count("<svg") == 1 and "http" not in page and "<script" not in page
    assert page.count("<tr") == len(report.points) + page.count("<thead")
    assert "class=bad" in page


def test_the_command_names_the_node_and_fails(broken: Path, tmp_path: Path) -> None:
    done = run(broken, "--layers", "--report", tmp_path / "page.html")
    assert done.returncode == 1 and (tmp_path / "page.html").is_file()
    assert "first diverges" in done.stderr and "encoder.layer.0/feed_forward/activation" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_passes_an_intact_artifact_and_writes_no_stamp(artifact: Path) -> None:
    before = (artifact / "fletcher.json").read_bytes()
    done = run(artifact, "--layers", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "passed"
    assert (artifact / "fletcher.json").read_bytes() == before
    assert sorted(file.name for file in artifact.iterdir()) == sorted(
        [*Artifact.open(artifact).manifest.files, "fletcher.json"]
    )


def test_two_variants_are_compared_at_every_point(twins: Path) -> None:
    report = compare_variants(twins, against="cpu-fp32", on="cpu-other")
    assert report.first is not None and report.first.key == "layers.1/attention/scaled_scores"
    assert report.reference == "cpu-fp32" and report.variant == "cpu-other"
    # Equal graphs give bitwise equal values.
    assert {point.relative for point in report.points[: report.points.index(report.first)]} == {0.0}
    done = run(twins, "--against", "cpu-fp32", "--on", "cpu-other")
    assert done.returncode == 1 and "encoder.layer.1/attention/context_rectangle" in done.stderr


def test_a_served_session_that_differs_from_its_graph_is_named(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def drifting(*args: Any, **options: Any) -> Iterator[Any]:
        with open_session(*args, **options) as session:

            class Drifting:
                def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
                    return session.run(batch) * np.float32(1.001)

            yield Drifting()

    monkeypatch.setattr(verify_module, "open_session", drifting)
    report = verify_layers(artifact)
    assert report.first is not None and report.first.key == "session/vectors"


def test_a_graph_without_its_device_is_probed_on_the_cpu(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*args: Any, **options: Any) -> Any:
        raise ProviderError("no such device")

    monkeypatch.setattr(verify_module, "open_session", absent)
    report = verify_layers(artifact, progress=Reporter(as_json=True))
    assert report.verdict == "passed" and report.first_in("session") is None
    assert not [point for point in report.points if point.section == "session"]
    assert "no such device" in capsys.readouterr().err


def test_a_tokenizer_with_another_vocabulary_is_the_first_point(artifact: Path, tmp_path: Path) -> None:
    patient = Patient.copy_of(artifact, tmp_path / "broken")
    file = patient.path / "tokenizer.json"
    settings = json.loads(file.read_text())
    vocabulary = settings["model"]["vocab"]
    vocabulary["w3"], vocabulary["w4"] = vocabulary["w4"], vocabulary["w3"]
    file.write_text(json.dumps(settings))
    patient.stamp()
    report = verify_layers(patient.path, texts=["w1 w2 w3 w4"])
    assert [point.key for point in report.points if point.verdict != "passed"] == [
        "tokens/vocabulary",
        "tokens/token_ids",
    ]
    assert report.first is not None and "2 tokens differ" in report.first.note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--against", "cpu-fp32"), "belong together"),
        (("--on", "cpu-fp32"), "belong together"),
        (("--against", "cpu-fp32", "--on", "cpu"), "with itself"),
        (("--against", "cpu-fp32", "--on", "cuda"), "has no variant 'cuda'"),
        (("--against", "cpu-fp32", "--on", "cpu", "--variant", "cpu-fp32"), "leave out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(artifact: Path, options: tuple[str, ...], message: str) -> None:
    done = run(artifact, *options)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_artifact_is_refused_before_anything_is_compared(artifact: Path, tmp_path: Path) -> None:
    patient = Patient.copy_of(artifact, tmp_path / "damaged")
    with (patient.path / "weights.fp32.safetensors").open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\0\1\1")
    with pytest.raises(ChecksumError, match=r"weights\.fp32\.safetensors"):
        verify_layers(patient.path)


def test_an_invalid_graph_and_a_traced_graph_are_refused(artifact: Path, tmp_path: Path) -> None:
    patient = Patient.copy_of(artifact, tmp_path / "other")
    manifest = Artifact.open(patient.path).manifest
    traced = msgspec.structs.replace(manifest.variants[0], exporter="optimum")
    write_manifest(patient.path, msgspec.structs.replace(manifest, variants=(traced,)))
    with pytest.raises(InputError, match="traced by optimum"):
        verify_layers(patient.path)
    write_manifest(patient.path, manifest)
    (patient.path / "cpu-fp32.onnx").write_bytes(b"no graph")
    patient.stamp()
    with pytest.raises(ArtifactError, match=r"cpu-fp32\.onnx"):
        verify_layers(patient.path)


@pytest.fixture(scope="module")
def targets(artifact: Path) -> Path:
    """Artifact for every target whose operators the CPU provider has, in two precisions."""
    path = artifact.parent / "targets"
    three, two = ("cpu", "tensorrt", "coreml"), ("fp32", "fp16")
    source = str(artifact.parent / "checkpoint")
    export(source, path, targets=three, precisions=two, max_tokens=40)
    return path


@pytest.mark.parametrize(
    "variant", ["cpu-fp16", "tensorrt-fp32", "tensorrt-fp16", "coreml-fp32-s32", "coreml-fp16-s40"]
)
def test_graphs_of_other_targets_and_precisions_agree(targets: Path, variant: str) -> None:
    report = verify_layers(targets, variant=variant, progress=Reporter(as_json=True))
    assert report.first is None, report.summary
    keys = {point.key for point in report.points}
    assert {"embeddings/word", "layers.2/attention/softmax", "layers.0/attention/mask", "modules.1"} <= keys
    if variant.startswith("coreml"):
        assert {len(batch) for batch in report.batches} == {1}
    other = compare_variants(targets, against="cpu-fp32", on=variant, progress=Reporter(as_json=True))
    assert other.first is None and "layers.2/attention/softmax" in {point.key for point in other.points}


def test_a_missing_mask_is_reported_in_attention_of_standard_operators(targets: Path, tmp_path: Path) -> None:
    patient = Patient(Patient.copy_of(targets, tmp_path / "broken").path, "tensorrt-fp32.onnx")
    name = "encoder.layer.1/attention"
    patient.replace(f"{name}/masked_scores", "Identity", [f"{name}/scores"])
    report = verify_layers(patient.path, variant="tensorrt-fp32", progress=Reporter(as_json=True))
    assert report.first is not None
    assert (report.first.key, report.first.node) == ("layers.1/attention/mask", f"{name}/weights")


@pytest.mark.parametrize(
    "kind",
    [
        "Bert",
        "Roberta",
        "DistilBert",
        "MPNet",
        "Albert",
        "Electra",
        "ModernBert",
        "NomicBert",
    ],
)
def test_a_rerankers_head_is_compared_step_by_step(tmp_path: Path, kind: str) -> None:
    family = next(name for name in MODELS if name.replace("_", "") == kind.lower())
    config = MODELS[family]().config
    config.num_labels = 2
    checkpoint = tmp_path / "checkpoint"
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    save(randomize(model), checkpoint, types=kind in ("Bert", "Albert", "Electra", "NomicBert"))
    export(str(checkpoint), tmp_path / "artifact", max_tokens=24)
    report = verify_layers(tmp_path / "artifact")
    assert report.first is None, report.summary
    steps = [point.key for point in report.points if point.key.startswith("modules.")]
    middle = ["modules.2"] if kind == "ModernBert" else []
    last = 2 + len(middle)
    assert steps == [
        "modules.0",
        "modules.1/dense",
        "modules.1",
        *middle,
        f"modules.{last}/dense",
        f"modules.{last}",
    ]

    patient = Patient(tmp_path / "artifact")
    patient.edit_weight("classifier.weight" if kind in POOLERS else "classifier.out_proj.weight", np.negative)
    report = verify_layers(patient.path)
    value = report.first_in("values")
    assert value is not None and value.key == f"modules.{last}/dense"
