"""TensorRT RTX: supported GPUs, registration of its plug-in, and sessions."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import MissingPackageError, ProviderError
from fletcher.runtime.machine.gpus import Gpu, GpuSystem
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.tensorrt.rtx import check_capability, open_tensorrt_rtx

from ....doubles.tensorrt import RTX, FakeRuntime, device
from ...gpus import H200, RTX_4090

BATCH = Encodings.from_lists([[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]])


@pytest.fixture(scope="module")
def artifact(tensorrt_artifact: Path) -> Artifact:
    return Artifact.open(tensorrt_artifact)


@pytest.fixture(scope="module")
def expected(artifact: Artifact) -> NDArray[np.float32]:
    """Return the vectors of the batch from the cpu graph."""
    with MlasSession(artifact.path / "cpu-fp32.onnx", threads=1) as session:
        return session.run(BATCH)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    """Simulate ONNX Runtime and the plug-in, on a machine with a GPU that it supports."""
    fake = FakeRuntime()
    plugin = types.ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.__version__ = "0.5.0"  # type: ignore[attr-defined]
    plugin.get_library_path = lambda: "/packages/plugin.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)
    monkeypatch.setattr("fletcher.runtime.providers.tensorrt.rtx.rtx_problem", lambda: None)
    monkeypatch.setattr(
        "fletcher.runtime.providers.tensorrt.session.this_gpus", lambda: GpuSystem((RTX_4090,), "580.1", (13, 0))
    )
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    return fake


def gpu_of(*capability: int) -> Gpu:
    return dataclasses.replace(RTX_4090, capability=capability)  # type: ignore[arg-type]


@pytest.mark.parametrize("capability", [(8, 6), (8, 9), (12, 0), (12, 1), (13, 0)])
def test_supported_capabilities(capability: tuple[int, int]) -> None:
    check_capability(gpu_of(*capability))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 7), (9, 0), (10, 0), (11, 0)])
def test_unsupported_capabilities(capability: tuple[int, int]) -> None:
    with pytest.raises(ProviderError, match=r"supports GPUs of compute capability 8\.6, 8\.9 and 12\.0 upward"):
        check_capability(gpu_of(*capability))


def test_a_gpu_for_servers_is_rejected_before_the_plug_in_is_loaded(artifact: Artifact, runtime: FakeRuntime) -> None:
    with pytest.raises(ProviderError, match=r"NVIDIA H200 has 9\.0: use the provider tensorrt or cuda"):
        open_tensorrt_rtx(artifact, artifact.variant("tensorrt-fp32"), H200)
    assert not runtime.registered
    assert not runtime.opened


def test_it_computes_and_keeps_its_engines(
    artifact: Artifact, expected: NDArray[np.float32], runtime: FakeRuntime, tmp_path: Path
) -> None:
    variant = artifact.variant("tensorrt-fp32")
    with open_tensorrt_rtx(artifact, variant, RTX_4090) as session:
        assert session.provider == "TensorRT RTX"
        vectors = session.run(BATCH)
        assert session.engines_built_in_service == 0
    assert runtime.registered == [(RTX, "/packages/plugin.so")]
    (graph, provider, options, entries), (context, *_, loaded) = runtime.opened
    assert (graph, provider) == (artifact.path / variant.file, RTX)
    assert options["nv_profile_max_shapes"].startswith("input_ids:256x20,")
    assert entries["ep.context_enable"] == "1"
    assert "ep.context_enable" not in loaded
    assert context.is_relative_to(tmp_path / "cache")
    runtime.opened.clear()
    open_tensorrt_rtx(artifact, variant, RTX_4090).close()
    assert [model.name for model, *_ in runtime.opened] == ["context.onnx"]
    assert len(runtime.registered) == 1  # a second registration would raise
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_the_device_is_that_of_the_gpu(artifact: Artifact, runtime: FakeRuntime) -> None:
    variant = artifact.variant("tensorrt-fp32")
    runtime.devices = [device(RTX, "0000:0a:00.0"), device(RTX, "0000:1B:00.0"), device("CPU", "")]
    open_tensorrt_rtx(artifact, variant, RTX_4090).close()
    runtime.devices = [device(RTX, ""), device(RTX, "")]
    with pytest.raises(ProviderError, match=r"finds 2 GPUs and does not report which one is 0000:1b:00\.0"):
        open_tensorrt_rtx(artifact, variant, RTX_4090)


def test_a_plug_in_that_finds_no_gpu_is_an_error(
    artifact: Artifact, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "register_execution_provider_library", lambda name, path: None)
    with pytest.raises(ProviderError, match="finds no GPU"):
        open_tensorrt_rtx(artifact, artifact.variant("tensorrt-fp32"), RTX_4090)

    def fail(name: str, path: str) -> None:
        raise RuntimeError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(runtime, "register_execution_provider_library", fail)
    with pytest.raises(ProviderError, match=r"plug-in cannot be loaded: libcuda\.so\.1"):
        open_tensorrt_rtx(artifact, artifact.variant("tensorrt-fp32"), RTX_4090)


def test_without_the_plug_in_the_extra_is_named(
    artifact: Artifact, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match=r"onnxruntime-ep-nv-tensorrt-rtx.*longbow-fletcher\[tensorrt-rtx\]"):
        open_tensorrt_rtx(artifact, artifact.variant("tensorrt-fp32"), RTX_4090)
