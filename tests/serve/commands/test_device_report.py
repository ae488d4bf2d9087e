"""`fletcher-serve devices`: its report of the machine, its providers and an artifact, as text and as JSON."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.commandline.console import run
from fletcher.runtime.machine.gpus import Gpu, GpuSystem
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.tokenizing import nanotoken as fast_tokenizer
from fletcher.runtime.tuning import bench as layout_bench
from fletcher.runtime.tuning import history
from fletcher.runtime.tuning.history import measuring_key, recall
from fletcher.serve.commands import device_report as devices
from fletcher.serve.commands.cli import app

pytestmark = pytest.mark.heavy  # by the seconds that it computes


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate cache and few rounds, and restore `sys.excepthook`, which `run` replaces, after each test."""
    monkeypatch.setattr(history, "cache_folder", lambda cache: tmp_path / "cache")
    for name in ("ROUNDS", "MOST_BATCHES"):
        monkeypatch.setattr(layout_bench, name, 1)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def call(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(app, ["devices", *args])
    output = capsys.readouterr()
    assert caught.value.code == 0, output.err
    return output.out


def test_the_machine_and_its_providers(capsys: pytest.CaptureFixture[str]) -> None:
    output = call(capsys)
    machine = this_machine()
    assert machine.processor in output
    assert f"{len(machine.processors)} processors" in output
    assert {"mlas ready", "openvino ready"} <= {" ".join(line.split()) for line in output.splitlines()}
    report = json.loads(call(capsys, "--json"))
    assert report["processor"] == machine.processor
    assert report["memory"] == machine.memory
    assert [provider["name"] for provider in report["providers"]] == [
        *("mlas", "openvino", "openvino-bf16"),
        *("cuda", "tensorrt", "tensorrt-rtx"),
        *("coreml", "coreml-gpu", "coreml-ane", "coreml-cpu"),
    ]
    assert (report["measurements"], report["choice"]) == ([], None)


def test_gpus_are_listed_with_their_driver(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, "NVIDIA H100 80GB HBM3", 80 << 30, (9, 0), "0000:0b:00.0")
    monkeypatch.setattr(devices, "this_gpus", lambda: GpuSystem((gpu,), "580.159.04", (13, 0)))
    output = " ".join(call(capsys).split())
    assert "cuda:0 NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, driver 580.159.04" in output
    report = json.loads(call(capsys, "--json"))
    assert report["gpus"] == [
        {"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3", "memory": 80 << 30, "capability": "9.0"}
    ]


def test_missing_packages_are_listed_with_the_command_that_installs_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    monkeypatch.setattr(fast_tokenizer, "fast_version", lambda: None)
    output = call(capsys)
    assert "openvino is not installed: pip install 'longbow-fletcher[openvino]'" in output
    assert "nanotoken is not installed: pip install 'longbow-fletcher[fast-tokenizer]'" in output


def test_packages_of_another_version_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"openvino": "2024.6.0", "nanotoken": "0.2.1"}
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or real(name))
    output = call(capsys)
    assert (
        "openvino 2024.6.0 is too old, 2026.4 is needed: pip install --upgrade 'longbow-fletcher[openvino]'" in output
    )
    assert "nanotoken 0.2.1 is not the version that was compared with tokenizers: install nanotoken 0.1" in output


def test_an_artifact_is_measured_and_the_choice_is_cached(capsys: pytest.CaptureFixture[str], tiny_model: Path) -> None:
    report = json.loads(call(capsys, str(tiny_model), "--seconds", "60", "--json"))
    measured = [one for one in report["measurements"] if one["problem"] is None]
    assert {"mlas", "openvino"} <= {one["layout"]["provider"] for one in measured}
    assert report["choice"]["layout"] in [one["layout"] for one in measured]
    assert "tokens/s at a cosine of" in report["choice"]["reason"]
    artifact = Artifact.open(tiny_model)
    remembered = recall(measuring_key(), artifact.digest, "cpu-fp32")
    assert remembered is not None
    assert len(remembered) == len(report["measurements"])


def test_the_report_as_a_table(capsys: pytest.CaptureFixture[str], tiny_model: Path) -> None:
    output = call(capsys, str(tiny_model), "--seconds", "60")
    heading = next(line for line in output.splitlines() if line.startswith("provider "))
    assert heading.split() == ["provider", "workers", "budget", "ms", "tokens/s", "relative", "cosine", "max", "abs"]
    assert any(
        line.startswith("mlas ") and f"{len(this_machine().processors)} x 1" in line for line in output.splitlines()
    )
    assert sum(line.endswith(" auto") for line in output.splitlines()) == 1
    assert output.splitlines()[-1].startswith("auto takes ")


def test_measurements_of_some_providers_are_not_cached(tiny_model: Path) -> None:
    report = devices.measure_artifact(tiny_model, variant=None, seconds=60, min_cosine=None, providers=["openvino"])
    assert {one.layout.provider for one in report.measurements} == {"openvino"}
    assert report.choice is not None and report.choice.layout.provider == "openvino"
    assert recall(measuring_key(), Artifact.open(tiny_model).digest, "cpu-fp32") is None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact of a random BERT, which all tests share. Do not write to it."""
    from fletcher.convert.export.export import export

    from ...convert.tiny import save_embedder

    folder = tmp_path_factory.mktemp("tiny")
    export(str(save_embedder(folder / "checkpoint")), folder / "artifact")
    return folder / "artifact"
