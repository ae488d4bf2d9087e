"""What a manifest says of a model of the zoo is compared with the package, and no manifest widens a tolerance."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors import safe_open

from fletcher import Encoder
from fletcher.model_zoo.card import Accuracy
from fletcher.runtime.artifact.folder import CANARY, Artifact
from fletcher.runtime.artifact.manifest import Manifest
from fletcher.runtime.artifact.writing import describe_files, write_manifest
from fletcher.runtime.canary import read_canary, write_canary
from fletcher.runtime.errors import ArtifactError, CanaryError


@pytest.fixture
def minilm(tmp_path: Path, minilm_artifact: Path) -> Path:
    return Path(shutil.copytree(minilm_artifact, tmp_path / "minilm"))


def rewrite(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Change an artifact as who owns it can: with right digests and a right checksum."""
    manifest = msgspec.structs.replace(Artifact.open(folder).manifest, files=describe_files(folder))
    write_manifest(folder, change(manifest))


def widen(tolerance: Accuracy) -> Callable[[Manifest], Manifest]:
    return lambda manifest: msgspec.structs.replace(
        manifest, variants=tuple(msgspec.structs.replace(each, tolerance=tolerance) for each in manifest.variants)
    )


@pytest.mark.parametrize(
    "tolerance",
    [
        Accuracy(min_cosine=-1.0),
        Accuracy(min_cosine=0.99, max_abs=1e-5),
        Accuracy(min_cosine=0.999999),
        Accuracy(min_cosine=0.999999, max_abs=1.0),
    ],
)
def test_a_manifest_does_not_widen_a_tolerance(own_artifact: Path, tolerance: Accuracy) -> None:
    rewrite(own_artifact, widen(tolerance))
    with pytest.raises(ArtifactError, match=r"and Fletcher writes at least 0\.999999 and at most 1e-05"):
        Encoder.load(own_artifact, provider="mlas")
    Encoder.load(own_artifact, provider="mlas", min_cosine=0.99).close()  # the user's own word


def test_a_card_in_the_manifest_does_not_widen_a_tolerance(own_artifact: Path) -> None:
    wide = Accuracy(min_cosine=0.5)

    def change(manifest: Manifest) -> Manifest:
        card = msgspec.structs.replace(manifest.card, accuracy={"fp32": wide})
        return msgspec.structs.replace(widen(wide)(manifest), card=card)

    rewrite(own_artifact, change)
    with pytest.raises(ArtifactError, match="and Fletcher writes at least"):
        Encoder.load(own_artifact, provider="mlas")


def test_an_unknown_recipe_does_not_widen_a_tolerance(own_artifact: Path) -> None:
    def change(manifest: Manifest) -> Manifest:
        changed = widen(Accuracy(min_cosine=0.5))(manifest)
        variants = tuple(msgspec.structs.replace(each, recipe={"scheme": "mine"}) for each in changed.variants)
        return msgspec.structs.replace(changed, variants=variants)

    rewrite(own_artifact, change)
    with pytest.raises(ArtifactError, match="and Fletcher writes at least"):
        Encoder.load(own_artifact, provider="mlas")


def test_a_canary_that_was_made_anew_is_not_published(minilm: Path) -> None:
    """Changed weights with a canary that they pass: the artifact still says that the authors computed it."""
    with safe_open(minilm / "weights.fp32.safetensors", framework="np") as weights:
        assert len(weights.keys())
    canary = read_canary(minilm / CANARY)
    vectors = canary.vectors[:, ::-1].copy()
    write_canary(minilm / CANARY, type(canary)(canary.texts, canary.encodings, vectors, canary.origin))
    rewrite(minilm, lambda manifest: manifest)
    with pytest.raises(CanaryError, match="is not the zoo's canary of all-MiniLM-L6-v2"):
        Encoder.load(minilm, provider="mlas")


def test_the_canary_of_a_zoo_model_cannot_be_called_its_own(minilm: Path) -> None:
    rewrite(minilm, lambda manifest: msgspec.structs.replace(manifest, canary_reference="own"))
    with pytest.raises(CanaryError, match="is not the zoo's canary"):
        Encoder.load(minilm, provider="mlas")


def test_an_unknown_model_has_no_published_canary(own_artifact: Path) -> None:
    rewrite(own_artifact, lambda manifest: msgspec.structs.replace(manifest, canary_reference="published"))
    with pytest.raises(ArtifactError, match="the zoo of this version of Fletcher has no such model"):
        Encoder.load(own_artifact, provider="mlas")


@pytest.mark.parametrize(
    ("field", "value"), [("normalize", False), ("prompts", {"query": "a "}), ("pooling", ("cls",)), ("max_tokens", 512)]
)
def test_the_card_of_a_zoo_model_is_the_packages(minilm: Path, field: str, value: object) -> None:
    rewrite(
        minilm,
        lambda manifest: msgspec.structs.replace(
            manifest, card=msgspec.structs.replace(manifest.card, **{field: value})
        ),
    )
    with pytest.raises(ArtifactError, match=f"differs from the zoo's in {field}"):
        Encoder.load(minilm, provider="mlas")


def test_the_zoos_own_artifact_loads(minilm_artifact: Path) -> None:
    with Encoder.load(minilm_artifact, provider="mlas") as encoder:
        assert np.isfinite(encoder.embed(["a"]).vectors).all()
