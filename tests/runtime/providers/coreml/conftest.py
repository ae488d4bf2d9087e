"""Fixtures: an artifact with graphs for CoreML, and a fake Mac."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fletcher.convert.export.export import export
from fletcher.runtime.artifact.folder import Artifact
from tests.convert.tiny import save_bert, save_modules
from tests.doubles.coreml import FakeCoreMl


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Return the artifact of a random BERT with graphs for the processor, and for CoreML with 32 and 64 tokens."""
    checkpoint = tmp_path_factory.mktemp("coreml") / "checkpoint"
    save_bert(checkpoint)
    save_modules(checkpoint, max_seq_length=64)
    folder = checkpoint.parent / "artifact"
    targets, precisions = ("cpu", "coreml"), ("fp32", "fp16")
    export(str(checkpoint), folder, targets=targets, precisions=precisions)
    return Artifact.open(folder)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCoreMl:
    """Simulate macOS with a build of ONNX Runtime that has CoreML."""
    fake = FakeCoreMl()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    return fake
