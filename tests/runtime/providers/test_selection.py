"""Choice of variants: by name, by precision, and by the preference of a provider."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import ArtifactError, CanaryError, OptionError
from fletcher.runtime.providers import registry, selection
from fletcher.runtime.providers.selection import choose_variant, choose_variants


@pytest.fixture
def artifact(tiny_artifact: Path) -> Artifact:
    """Return an artifact whose manifest lists variants of several targets and precisions; only the first one has a graph."""
    opened = Artifact.open(tiny_artifact)
    (first, *_) = opened.manifest.variants
    names = ("cpu-fp32", "cpu-int8", "cuda-fp32", "cuda-bf16", "cuda-fp16")
    variants = tuple(
        msgspec.structs.replace(first, name=name, target=name.split("-")[0], precision=name.split("-")[1])
        for name in names
    )
    return Artifact(opened.path, msgspec.structs.replace(opened.manifest, variants=variants))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine that runs CUDA."""
    monkeypatch.setattr(selection, "runnable_targets", lambda: ("cuda", "cpu"))


def names(
    artifact: Artifact, name: str | None = None, provider: str = "auto", precision: str | None = None
) -> list[str]:
    return [variant.name for variant in choose_variants(artifact, name, provider, precision)]


def test_a_processor_takes_the_first_variant(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "runnable_targets", lambda: ("cpu",))
    assert names(artifact) == ["cpu-fp32"]
    assert names(artifact, precision="int8") == ["cpu-int8"]
    assert choose_variant(artifact, None, "mlas").name == "cpu-fp32"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_a_gpu_prefers_fp16(artifact: Artifact, provider: str) -> None:
    assert names(artifact, provider=provider) == ["cuda-fp16", "cuda-fp32"]
    assert names(artifact, provider=provider, precision="fp32") == ["cuda-fp32"]
    assert names(artifact, provider=provider, precision="bf16") == ["cuda-bf16"]
    assert names(artifact, name="cuda-fp32", provider=provider) == ["cuda-fp32"]


@pytest.mark.usefixtures("gpu")
def test_a_precision_that_only_the_processor_has_is_found(artifact: Artifact) -> None:
    assert names(artifact, precision="int8") == ["cpu-int8"]
    with pytest.raises(
        ArtifactError, match=r"no variant of precision int8 that runs here: it has fp32, int8, bf16, fp16"
    ):
        names(artifact, provider="cuda", precision="int8")
    with pytest.raises(ArtifactError, match="precision fp8"):
        names(artifact, precision="fp8")


def test_a_variant_of_another_precision_is_rejected(artifact: Artifact) -> None:
    with pytest.raises(OptionError, match="the variant cuda-fp16 has fp16") as caught:
        names(artifact, name="cuda-fp16", precision="fp32")
    assert caught.value.field == "precision"


def test_a_preferred_variant_whose_canary_fails_is_replaced(
    own_artifact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The canary of the real session decides; a precision that the user requested is never replaced."""
    first = Artifact.open(own_artifact).variant()
    strict = msgspec.structs.replace(
        first, name="cpu-fp16", precision="fp16", tolerance=msgspec.structs.replace(first.tolerance, max_abs=-1.0)
    )
    exact = msgspec.structs.replace(first, name="cpu-exact", precision="exact")
    _rewrite(own_artifact, (exact, strict))
    mlas = selection.find_provider("mlas")
    monkeypatch.setattr(registry, "PROVIDERS", (dataclasses.replace(mlas, preferred=("fp16",)),))
    with caplog.at_level("WARNING"), Encoder.load(own_artifact, provider="mlas") as encoder:
        assert encoder.variant.name == "cpu-exact"
        assert "fp16 was not taken" in encoder.info.reason
    assert "variant skipped" in caplog.text
    with pytest.raises(CanaryError):
        Encoder.load(own_artifact, provider="mlas", precision="fp16")
    _rewrite(own_artifact, (exact, msgspec.structs.replace(strict, tolerance=first.tolerance)))
    with Encoder.load(own_artifact, provider="mlas") as encoder:
        assert encoder.variant.name == "cpu-fp16"
        assert "fp16 is preferred here, and its canary passed" in encoder.info.reason
        assert "--precision exact takes another one" in encoder.info.reason


def _rewrite(folder: Path, variants: tuple[object, ...]) -> None:
    """Write another list of variants into a manifest."""
    file = folder / "fletcher.json"
    manifest = msgspec.json.decode(file.read_bytes())
    manifest["variants"] = msgspec.to_builtins(variants)
    manifest.pop("checksum", None)
    file.write_bytes(msgspec.json.encode(manifest))
