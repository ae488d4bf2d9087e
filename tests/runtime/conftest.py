"""An artifact so small that a test may make its own: a random BERT, in the tests' own folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fletcher.convert.export.export import export

from ..convert.tiny import save_embedder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with mean pooling and L2, longest input 20 tokens: read it, never write it."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    return save_embedder(folder)


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Its artifact: read it, never write it."""
    path = tmp_path_factory.mktemp("tiny") / "artifact"
    export(str(tiny_checkpoint), path)
    return path


@pytest.fixture(scope="session")
def tensorrt_artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """An artifact of it for the targets cpu and tensorrt: read it, never write it."""
    path = tmp_path_factory.mktemp("tensorrt") / "artifact"
    export(str(tiny_checkpoint), path, targets=("cpu", "tensorrt"))
    return path


@pytest.fixture
def own_artifact(tmp_path: Path, tiny_artifact: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
