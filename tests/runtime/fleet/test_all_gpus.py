"""Encoders on fake GPUs that compute on the processor: from `Encoder.load` to vectors, and errors on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher import Encoder
from fletcher.convert.export.export import export
from fletcher.runtime import loading
from fletcher.runtime.bulk import MANY_TEXTS
from fletcher.runtime.errors import ArtifactError, ChecksumError, DeviceLostError, MissingPackageError, ProviderError
from fletcher.runtime.fleet.fleet import Fleet
from fletcher.runtime.machine import gpus
from fletcher.runtime.machine.gpus import Gpu, GpuSystem
from fletcher.runtime.providers import needs
from fletcher.runtime.providers.cuda import ort as cuda_ort
from fletcher.runtime.providers.cuda import session as cuda_module
from fletcher.runtime.providers.nvidia import GPU_TOKEN_BUDGET
from fletcher.runtime.providers.opening import Opened, open_with_fallback
from tests.doubles.cuda import FakeCuda, FakeOnnxRuntime

TEXTS = ["hello world", "a", "the quick brown fox jumps over the lazy dog " * 3, "hello", "world hello", "", "a b c d"]

Machine = Callable[..., tuple[FakeCuda, FakeOnnxRuntime]]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Return an artifact with graphs for the processor and for a GPU."""
    folder = tmp_path_factory.mktemp("gpu") / "artifact"
    export(
        str(tiny_checkpoint),
        folder,
        targets=("cpu", "cuda"),
        precisions=("fp32",),
        pooling="mean",
    )
    return folder


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a function that gives this machine fake GPUs."""

    def make(count: int = 1, **options: int) -> tuple[FakeCuda, FakeOnnxRuntime]:
        cuda, runtime = FakeCuda(count, **options), FakeOnnxRuntime()
        driver = cuda.driver()
        fakes = tuple(Gpu(index, "Fake", cuda.memory, (9, 0), "", ()) for index in range(count))
        monkeypatch.setattr(gpus, "this_gpus", lambda: GpuSystem(fakes, "580", (13, 0)))
        monkeypatch.setattr(gpus, "load_driver", lambda: driver)
        monkeypatch.setattr(cuda_module, "load_driver", lambda: driver)
        monkeypatch.setattr(cuda_ort, "import_onnxruntime", lambda: runtime)
        monkeypatch.setattr(needs, "_version", lambda name: "1.31.1" if "onnxruntime" in name else None)
        return cuda, runtime

    return make


@pytest.mark.parametrize("count", [1, 2])
def test_auto_uses_the_gpu_and_returns_the_processors_vectors(artifact: Path, machine: Machine, count: int) -> None:
    with Encoder.load(artifact, provider="mlas") as reference:
        assert reference.variant.name == "cpu-fp32"
        expected = reference.embed(TEXTS).vectors
    cuda, _ = machine(count)
    with Encoder.load(artifact) as encoder:
        assert (encoder.info.provider, encoder.variant.name, encoder.info.fallback) == ("CUDA", "cuda-fp32", None)
        assert encoder.info.workers == count * gpus.SLOTS
        np.testing.assert_allclose(encoder.embed(TEXTS).vectors, expected, atol=2e-6)
        halves = encoder.embed(TEXTS, dtype="float16").vectors
        assert halves.dtype == np.float16
        np.testing.assert_array_equal(halves, expected.astype(np.float16))
        names = {metric.name: metric.value() for metric in encoder.metrics().devices if metric.device == "cuda:0"}
        assert names["fletcher_gpu_in_service"] == 1
        assert names["fletcher_cuda_graphs_captured_total"] > 0
    assert not cuda.held


def test_many_texts_come_back_in_order_with_duplicates(artifact: Path, machine: Machine) -> None:
    machine(2)
    texts = [f"{TEXTS[number % 6]} {number % 500}" for number in range(MANY_TEXTS + 3)]
    with Encoder.load(artifact) as encoder:
        assert encoder._workers.session.devices == 2
        embeddings = encoder.embed(texts, dtype="float16")
        few = encoder.embed(texts[:6000], dtype="float16")
    assert len(embeddings) == len(texts)
    np.testing.assert_allclose(embeddings.vectors[:6000].astype(np.float32), few.vectors.astype(np.float32), atol=1e-3)
    np.testing.assert_array_equal(embeddings.tokens[:6000], few.tokens)


def test_no_text_is_lost_with_a_gpu_that_fails_during_a_run(artifact: Path, machine: Machine) -> None:
    _, runtime = machine(2)
    with Encoder.load(artifact, token_budget=64) as encoder:
        expected = encoder.embed(TEXTS * 20).vectors
        remaining = [3]

        def fail(_: object) -> None:
            remaining[0] -= 1
            if remaining[0] == 0:
                raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")

        runtime.fail = fail
        np.testing.assert_allclose(encoder.embed(TEXTS * 20).vectors, expected, atol=2e-6)


def test_loss_of_the_only_gpu_is_an_error(artifact: Path, machine: Machine) -> None:
    _, runtime = machine()

    def fail(_: object) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")

    with Encoder.load(artifact) as encoder:
        runtime.fail = fail
        with pytest.raises(DeviceLostError, match="illegal memory access"):
            encoder.embed(["hello"])


def test_without_a_gpu_auto_uses_the_processor(artifact: Path) -> None:
    with Encoder.load(artifact) as encoder:
        assert encoder.variant.target == "cpu"


def test_a_requested_gpu_without_its_package_names_the_extra(artifact: Path, machine: Machine) -> None:
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[nvidia\]"):
        Encoder.load(artifact, provider="cuda")


def test_a_gpu_that_cannot_be_used_is_an_error_or_a_fallback_as_configured(
    artifact: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    system = GpuSystem(problem="this machine has no NVIDIA driver")
    monkeypatch.setattr(gpus, "this_gpus", lambda: system)
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        Encoder.load(artifact, provider="cuda")
    with Encoder.load(artifact, provider="cuda", allow_fallback=True) as encoder:
        assert encoder.info.provider == "MLAS"
        assert encoder.variant.name == "cpu-fp32"
        assert "cuda was requested, mlas runs" in str(encoder.info.fallback)
        assert encoder.info.workers >= 1
        assert len(encoder.embed(TEXTS)) == len(TEXTS)


def test_a_gpu_without_memory_for_the_model_is_an_error_or_a_fallback(artifact: Path, machine: Machine) -> None:
    _, runtime = machine()
    runtime.open_error = RuntimeError("CUDA failure 2: out of memory ; GPU=0")
    with pytest.raises(ProviderError, match="not enough free memory"):
        Encoder.load(artifact, provider="cuda")
    with Encoder.load(artifact, provider="cuda", allow_fallback=True) as encoder:
        assert "not enough free memory" in str(encoder.info.fallback)


def test_fallback_from_tensorrt_to_cuda_keeps_a_gpus_layout(
    artifact: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    original = open_with_fallback

    def open_with_note(*args: Any, **options: Any) -> Opened:
        return replace(original(*args, **options), fallback="tensorrt was requested, cuda runs")

    monkeypatch.setattr(loading, "open_with_fallback", open_with_note)
    with Encoder.load(artifact) as encoder:
        assert encoder.info.fallback == "tensorrt was requested, cuda runs"
        assert (encoder.info.workers, encoder.info.token_budget) == (gpus.SLOTS, GPU_TOKEN_BUDGET)


def test_an_artifact_without_a_cuda_graph_names_the_target_to_export(tiny_artifact: Path, machine: Machine) -> None:
    machine()
    with pytest.raises(ArtifactError, match="--target cuda"):
        Encoder.load(tiny_artifact, provider="cuda")


@pytest.mark.parametrize("name", ["cuda-fp32.onnx", "weights.fp32.safetensors"])
def test_a_gpu_is_opened_again_with_the_files_that_were_loaded_and_no_others(
    artifact: Path, tmp_path: Path, machine: Machine, name: str
) -> None:
    own = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    machine(1)
    with Encoder.load(own, provider="cuda") as encoder:
        fleet = encoder._workers.session
        assert isinstance(fleet, Fleet)
        open_again = fleet._members[0].device.open
        assert open_again is not None
        open_again().close()
        (own / "other").write_bytes((own / name).read_bytes()[:-1] + b"x")
        (own / "other").replace(own / name)
        with pytest.raises(ChecksumError):
            open_again()
