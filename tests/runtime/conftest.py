"""Fixtures: artifacts of a tiny random BERT, which are so small that a test can copy and change them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fletcher.convert.export.export import export


@pytest.fixture(scope="session")
def tensorrt_artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Return an artifact of `tiny_checkpoint` for the targets cpu and tensorrt. Tests must not change it."""
    path = tmp_path_factory.mktemp("tensorrt") / "artifact"
    export(str(tiny_checkpoint), path, targets=("cpu", "tensorrt"))
    return path


@pytest.fixture
def own_artifact(tmp_path: Path, tiny_artifact: Path) -> Path:
    """Return a copy of `tiny_artifact` that the test may change."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
