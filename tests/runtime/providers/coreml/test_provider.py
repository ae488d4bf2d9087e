"""Provider CoreML: its requirements, and an encoder that runs on it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from fletcher import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import ProviderError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.memory.budget import resident
from fletcher.runtime.providers.coreml.provider import COREML, COREML_ANE, COREML_CPU, COREML_GPU, coreml_problem
from fletcher.runtime.providers.needs import missing
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.provider import OpenOptions
from fletcher.runtime.providers.selection import choose_variant, runnable_targets
from tests.doubles.coreml import CPU, FakeCoreMl

TEXTS = ["hello world", "a", "the quick brown fox jumps over the lazy dog", "", "a b c d"]

needs_another_system = pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")


@needs_another_system
def test_a_system_without_coreml_is_an_error(artifact: Artifact) -> None:
    problem = f"CoreML exists only on macOS, and this is {platform.system()}: load a cpu variant"
    assert missing(COREML, this_machine()) == problem
    with pytest.raises(ProviderError, match=f"the provider coreml-gpu cannot be used here: {problem}"):
        open_session(artifact, artifact.variant("coreml-fp32-s32"), provider="coreml-gpu")
    with Encoder.load(artifact.path, provider="coreml", allow_fallback=True) as encoder:
        assert (encoder.info.provider, encoder.info.provider_name, encoder.variant.name) == ("MLAS", "mlas", "cpu-fp32")
        assert (
            encoder.info.fallback
            == f"coreml was requested, mlas runs: the provider coreml cannot be used here: {problem}"
        )


def test_a_mac_needs_a_new_version_and_an_onnxruntime_with_coreml(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCoreMl()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("11.7", ("", "", ""), "arm64"))
    assert coreml_problem(this_machine()) == "CoreML's MLProgram needs macOS 12, and this is macOS 11.7: update it"
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert coreml_problem(this_machine()) is None
    fake.providers = [CPU]
    assert coreml_problem(this_machine()) == (
        "onnxruntime 1.31.1 was built without CoreML: pip install 'longbow-fletcher[apple]'"
    )


def test_the_providers_of_coreml_differ_in_their_devices(
    artifact: Artifact, runtime: FakeCoreMl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for provider in (COREML, COREML_GPU, COREML_ANE, COREML_CPU):
        with provider.open(artifact, artifact.variant("coreml-fp32-s32"), OpenOptions()) as session:
            assert session.provider == provider.title
    units = [options["MLComputeUnits"] for name, options in runtime.opened if name.endswith("s32.onnx")]
    assert units == ["ALL", "CPUAndGPU", "CPUAndNeuralEngine", "CPUOnly"]


@pytest.fixture
def mac(runtime: FakeCoreMl, monkeypatch: pytest.MonkeyPatch) -> FakeCoreMl:
    """Simulate a machine that meets the requirements of CoreML."""
    monkeypatch.setattr("fletcher.runtime.providers.needs._is_installed", lambda needs: needs.extra == "apple")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    return runtime


def test_an_encoder_loads_limits_its_memory_and_embeds(artifact: Artifact, mac: FakeCoreMl) -> None:
    limit = resident() + (400 << 20)
    with Encoder.load(artifact.path, provider="coreml", memory_limit=limit) as encoder:
        assert (encoder.info.provider, encoder.info.provider_name, encoder.info.fallback) == ("CoreML", "coreml", None)
        assert encoder.variant.name == "coreml-fp32-s32"
        assert (encoder.info.workers, encoder.info.token_budget) == (2, 512)
        vectors = encoder.embed(TEXTS).vectors
        assert np.isfinite(vectors).all() and len(vectors) == len(TEXTS)
        assert encoder.require_canary().passed


def test_graphs_for_the_processor_are_preferred_if_an_artifact_has_both(artifact: Artifact, mac: FakeCoreMl) -> None:
    assert runnable_targets() == ("cpu", "coreml")
    assert choose_variant(artifact, None, "auto").name == "cpu-fp32"
    assert choose_variant(artifact, None, "coreml").name == "coreml-fp32-s32"
    assert choose_variant(artifact, "coreml-fp16-s64", "auto").name == "coreml-fp16-s64"


def test_auto_runs_a_named_variant_without_a_measurement(artifact: Artifact, mac: FakeCoreMl, tmp_path: Path) -> None:
    with Encoder.load(artifact.path, variant="coreml-fp16-s32") as encoder:
        assert encoder.info.provider == "CoreML"
        assert encoder.info.reason == "coreml runs this variant; fletcher-serve devices DIR measures batch sizes"
