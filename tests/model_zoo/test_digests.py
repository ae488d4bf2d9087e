"""Published digests of artifacts: an export by this version has the digest that the package states."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from fletcher.convert.export.export import export
from fletcher.model_zoo.zoo import load_card, packaged, published_digest
from fletcher.runtime.artifact.folder import Artifact

#: Packages that write bytes of an artifact.
WRITERS = ("onnx", "safetensors", "tokenizers", "transformers")


def require_locked() -> None:
    """Skip a test where a package that writes bytes of an artifact has another version than the locked one."""
    lock = Path(__file__).parents[2].joinpath("requirements.lock").read_text()
    for name in WRITERS:
        locked = re.search(rf"^{name}==(\S+)", lock, re.MULTILINE)
        if locked is not None and importlib.metadata.version(name) != locked[1]:
            pytest.skip(f"{name} is not the locked version")


def test_an_export_has_the_published_digest(minilm_artifact: Path) -> None:
    """The digest is a record of what was published: if a change of graphs is meant, write the new one into the file."""
    require_locked()
    assert Artifact.open(minilm_artifact).digest == published_digest("all-MiniLM-L6-v2")


@pytest.mark.slow  # an export of 436 MB
def test_an_export_of_mpnet_has_the_published_digest(tmp_path: Path) -> None:
    require_locked()
    export("all-mpnet-base-v2", tmp_path / "artifact")
    assert Artifact.open(tmp_path / "artifact").digest == published_digest("all-mpnet-base-v2")


def test_every_published_digest_is_a_models() -> None:
    for name, digest in tomllib.loads(packaged("digests.toml").read_text(encoding="utf-8")).items():
        assert load_card(name).name == name
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_other_models_have_none() -> None:
    assert published_digest("bert-tiny") is None
    assert published_digest("no model") is None
