"""Sessions of TensorRT on a fake ONNX Runtime: their options, results and errors."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Profile, TensorInfo, Variant
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import DeviceMemoryError, InputError, MissingPackageError, ProviderError
from fletcher.runtime.machine.gpus import Gpu, GpuSystem
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.tensorrt.session import TensorRtSession, open_tensorrt

from ....doubles.tensorrt import CUDA, TENSORRT, FakeRuntime
from ...gpus import H200, variant_with

LENGTHS = [3, 20, 1, 8, 9, 17, 2, 2, 5, 20, 11]


@pytest.fixture(scope="module")
def artifact(tensorrt_artifact: Path) -> Artifact:
    return Artifact.open(tensorrt_artifact)


@pytest.fixture(scope="module")
def variant(artifact: Artifact) -> Variant:
    """Return a variant with two profiles: at most 4 texts of 8 tokens, and 2 of 20."""
    variant = artifact.variant("tensorrt-fp32")
    return msgspec.structs.replace(variant, profiles=tuple(profile(variant, *most) for most in ((4, 8), (2, 20))))


@pytest.fixture(scope="module")
def expected(artifact: Artifact) -> NDArray[np.float32]:
    """Return the vectors of the batch of `LENGTHS` from the cpu graph, which other tests compare with transformers."""
    with MlasSession(artifact.path / "cpu-fp32.onnx", threads=1) as session:
        return session.run(batch_of(LENGTHS))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    """Simulate ONNX Runtime with TensorRT's libraries, on a machine with a GPU."""
    fake = FakeRuntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr("fletcher.runtime.providers.tensorrt.session.require_provider", lambda: None)
    monkeypatch.setattr("fletcher.runtime.providers.tensorrt.session.load_tensorrt", lambda: "10.13.3")
    monkeypatch.setattr(
        "fletcher.runtime.providers.tensorrt.session.this_gpus", lambda: GpuSystem((H200,), "580.159.04", (13, 0))
    )
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    return fake


def profile(variant: Variant, texts: int, longest: int) -> Profile:
    sizes = [
        {"texts": 1, "longest": 1},
        {"texts": texts, "longest": longest // 2},
        {"texts": texts, "longest": longest},
    ]
    return Profile(
        *({info.name: tuple(size[str(name)] for name in info.shape) for info in variant.inputs} for size in sizes)
    )


def batch_of(lengths: list[int]) -> Encodings:
    rng = np.random.default_rng(3)
    return Encodings.from_lists([rng.integers(5, 30, size=length).tolist() for length in lengths])


def engines(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.engine"))


def test_vectors_are_those_of_the_cpu_graph_in_the_order_of_the_batch(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, expected: NDArray[np.float32]
) -> None:
    batch = batch_of(LENGTHS)
    with open_tensorrt(artifact, variant, H200) as session:
        assert session.provider == "TensorRT"
        assert session.fallback is None
        np.testing.assert_allclose(session.run(batch), expected, atol=2e-5)
        assert sorted(runtime.runs) == [(1, 20), (2, 8), (2, 11), (2, 20), (4, 3)]
        np.testing.assert_allclose(session.run(batch.select(np.array([2]))), expected[2:3], atol=2e-5)


def test_each_profile_is_built_with_its_shapes_and_without_a_precision_flag(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime
) -> None:
    open_tensorrt(artifact, variant, gpu_with(index=1)).close()
    builds = [opened for opened in runtime.opened if opened[0] == artifact.path / variant.file]
    loads = [opened for opened in runtime.opened if opened[0].name == "context.onnx"]
    assert len(builds) == len(loads) == 2
    assert runtime.opened == [*builds, *loads]
    names = [info.name for info in variant.inputs]
    for (_, provider, options, _), (texts, longest) in zip(builds, ((4, 8), (2, 20)), strict=True):
        assert provider == TENSORRT
        assert options["device_id"] == "1"
        assert options["trt_profile_max_shapes"].startswith(f"input_ids:{texts}x{longest}")
        assert [item.partition(":")[0] for item in options["trt_profile_max_shapes"].split(",")] == names
        assert not [name for name in options if any(kind in name for kind in ("fp16", "bf16", "int8"))]
    assert [options for _, _, options, _ in loads] == [{"device_id": "1"}] * 2


def test_paths_in_a_context_model_do_not_depend_on_the_working_folder(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(artifact.path.parent)
    open_tensorrt(Artifact.open(artifact.path.name), variant, H200).close()
    assert all(model.is_absolute() for model, *_ in runtime.opened)


def test_no_session_may_use_the_processor(artifact: Artifact, variant: Variant, runtime: FakeRuntime) -> None:
    open_tensorrt(artifact, variant, H200).close()
    assert all(entries["session.disable_cpu_ep_fallback"] == "1" for *_, entries in runtime.opened)


def test_engines_are_built_once(artifact: Artifact, variant: Variant, runtime: FakeRuntime, tmp_path: Path) -> None:
    open_tensorrt(artifact, variant, H200).close()
    assert len(engines(tmp_path)) == 2
    runtime.opened.clear()
    with open_tensorrt(artifact, variant, H200) as session:
        assert [model.name for model, *_ in runtime.opened] == ["context.onnx"] * 2
        session.run(batch_of(LENGTHS))
        assert session.engines_built_in_service == 0


def test_an_engine_that_is_built_after_the_load_is_counted(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, tmp_path: Path
) -> None:
    with open_tensorrt(artifact, variant, H200) as session:
        engines(tmp_path)[0].write_text("engine, built again")
        assert session.engines_built_in_service == 1
        assert session.counters()["engines_built_in_service"][1]() == 1.0


@pytest.mark.parametrize(
    "change",
    ["driver", "gpu", "onnxruntime", "tensorrt", "profiles", "tf32"],
)
def test_engines_of_another_machine_or_version_are_not_used(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    open_tensorrt(artifact, variant, H200).close()
    runtime.opened.clear()
    gpu = H200
    if change == "driver":
        monkeypatch.setattr(
            "fletcher.runtime.providers.tensorrt.session.this_gpus", lambda: GpuSystem((H200,), "590.1", (13, 1))
        )
    elif change == "gpu":
        gpu = gpu_with(name="NVIDIA H100")
    elif change == "onnxruntime":
        runtime.__version__ = "1.32.0"
    elif change == "tensorrt":
        monkeypatch.setattr("fletcher.runtime.providers.tensorrt.session.load_tensorrt", lambda: "10.16.1")
    elif change == "profiles":
        variant = msgspec.structs.replace(variant, profiles=(profile(variant, 4, 20), variant.profiles[1]))
    else:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    open_tensorrt(artifact, variant, gpu).close()
    assert [model.name for model, *_ in runtime.opened].count(variant.file) == 2


@pytest.mark.parametrize("hash_is_right", [False, True])
def test_a_damaged_engine_is_logged_once_and_built_again(
    artifact: Artifact,
    variant: Variant,
    runtime: FakeRuntime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hash_is_right: bool,
) -> None:
    open_tensorrt(artifact, variant, H200).close()
    engines(tmp_path)[1].write_text("nonsense")
    if hash_is_right:  # TensorRT itself rejects it
        monkeypatch.setattr("fletcher.runtime.providers.tensorrt.engine_cache.EngineCache._problem", lambda self: None)
    with caplog.at_level(logging.WARNING, "fletcher"), open_tensorrt(artifact, variant, H200) as session:
        assert [entry.message for entry in caplog.records] == ["engines discarded"]
        assert session.run(batch_of([3])).shape == (1, 32)
        assert session.engines_built_in_service == 0


def test_a_lack_of_memory_is_not_treated_as_damage(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tensorrt(artifact, variant, H200).close()
    monkeypatch.setattr(runtime, "fail", raising("CUDA failure 2: out of memory"))
    with pytest.raises(DeviceMemoryError, match=r"TensorrtExecutionProvider does not take .*out of memory"):
        open_tensorrt(artifact, variant, H200, allow_cuda=True)
    assert len(engines(tmp_path)) == 2


def test_a_failed_session_is_not_reopened_on_the_processor(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "fail", raising("the builder failed"))
    with pytest.raises(ProviderError, match=r"does not take .*: the builder failed"):
        open_tensorrt(artifact, variant, H200)


def test_a_provider_that_onnxruntime_drops_is_an_error(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime
) -> None:
    runtime.vanishes = True
    with pytest.raises(ProviderError, match=r"should run on TensorrtExecutionProvider, and runs on \['CPUExecution"):
        open_tensorrt(artifact, variant, H200)


def test_a_node_on_another_provider_is_an_error(artifact: Artifact, variant: Variant, runtime: FakeRuntime) -> None:
    runtime.lost_nodes = True
    with pytest.raises(
        ProviderError, match=r"1 nodes of .* the first is layer0/norm \(LayerNormalization\) on CPUExecution"
    ):
        open_tensorrt(artifact, variant, H200)


def test_a_graph_that_tensorrt_divides_is_rejected(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, tmp_path: Path
) -> None:
    runtime.whole = False
    with pytest.raises(ProviderError, match="TensorRT did not take the whole graph"):
        open_tensorrt(artifact, variant, H200)
    assert not engines(tmp_path)


@pytest.mark.parametrize("problem", ["libraries", "package"])
def test_an_allowed_fallback_to_cuda_has_a_reason(
    artifact: Artifact,
    variant: Variant,
    runtime: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expected: NDArray[np.float32],
    problem: str,
) -> None:
    def lacking() -> str:
        if problem == "package":
            raise MissingPackageError("onnxruntime-gpu", "tensorrt", "the provider tensorrt")
        raise ProviderError("libnvinfer.so.10 cannot be loaded")

    monkeypatch.setattr("fletcher.runtime.providers.tensorrt.session.load_tensorrt", lacking)
    with pytest.raises((ProviderError, MissingPackageError)):
        open_tensorrt(artifact, variant, H200)
    assert not runtime.opened
    batch = batch_of(LENGTHS)
    with (
        caplog.at_level(logging.WARNING, "fletcher.runtime.providers.tensorrt.session"),
        open_tensorrt(artifact, variant, H200, allow_cuda=True) as session,
    ):
        assert session.provider == "CUDA"
        assert session.fallback is not None
        assert session.fallback.startswith("tensorrt was requested, cuda runs: ")
        assert session.engines_built_in_service == 0
        np.testing.assert_allclose(session.run(batch), expected, atol=2e-5)
    assert [entry.message for entry in caplog.records] == ["fallback"]
    assert [(model, provider) for model, provider, *_ in runtime.opened] == [(artifact.path / variant.file, CUDA)]
    assert runtime.opened[0][2]["use_tf32"] == "0"


def test_outputs_by_token_have_the_order_of_the_batch(tmp_path: Path) -> None:
    """The graph returns the id of each token, on two engines. So the result has the ids of the batch in their order."""
    ids = TensorInfo("input_ids", "int32", ("texts", "longest"))
    vectors = TensorInfo("token_vectors", "float32", ("texts", "longest", 1))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["numbers", "last"], ["token_vectors"]),
        ],
        "echo",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT32, ids.shape)],
        [helper.make_tensor_value_info("token_vectors", TensorProto.FLOAT, vectors.shape)],
        [helper.make_tensor("last", TensorProto.INT64, [1], [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "echo.onnx").write_bytes(model.SerializeToString())
    variant = variant_with((ids,), ())
    profiles = (profile(variant, 4, 8), profile(variant, 2, 20))
    variant = msgspec.structs.replace(variant, profiles=profiles, outputs=(vectors,))
    sessions = [onnxruntime.InferenceSession(tmp_path / "echo.onnx", providers=["CPUExecutionProvider"])] * 2
    for lengths in (LENGTHS, [3, 2]):
        batch = batch_of(lengths)
        with TensorRtSession(variant, sessions, provider="TensorRT", watch=None) as session:
            np.testing.assert_array_equal(session.run(batch, "token_vectors")[:, 0], batch.ids)


def test_errors_of_a_session(artifact: Artifact, variant: Variant, runtime: FakeRuntime) -> None:
    session = open_tensorrt(artifact, variant, H200)
    with pytest.raises(InputError, match="a text of 21 tokens"):
        session.run(batch_of([3, 21]))
    with pytest.raises(ProviderError, match="no output 'hidden' but vectors"):
        session.run(batch_of([3]), "hidden")
    session.close()
    with pytest.raises(ProviderError, match="closed"):
        session.run(batch_of([3]))


def test_a_batch_that_tensorrt_rejects_is_an_error(artifact: Artifact, variant: Variant, runtime: FakeRuntime) -> None:
    wider = msgspec.structs.replace(variant, profiles=(variant.profiles[1],))
    with open_tensorrt(artifact, variant, H200) as session:
        narrow = session._sessions[0]  # type: ignore[index]
        with (
            TensorRtSession(wider, [narrow], provider="TensorRT", watch=None) as wrong,
            pytest.raises(
                ProviderError, match=r"TensorRT cannot compute a batch of 1 texts and 20 tokens: .*setInputShape"
            ),
        ):
            wrong.run(batch_of([20]))


def test_several_threads_can_run_a_session(artifact: Artifact, variant: Variant, runtime: FakeRuntime) -> None:
    batch = batch_of(LENGTHS)
    with open_tensorrt(artifact, variant, H200) as session:
        alone = session.run(batch)
        results: list[NDArray[np.float32]] = []
        threads = [threading.Thread(target=lambda: results.append(session.run(batch))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4
    for vectors in results:
        np.testing.assert_array_equal(vectors, alone)


def test_a_folder_that_cannot_be_written_is_an_error(
    artifact: Artifact, variant: Variant, runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "file"))
    with pytest.raises(ProviderError, match=r"folder of engines .*cannot be written .*set FLETCHER_CACHE"):
        open_tensorrt(artifact, variant, H200)


def test_without_a_gpu_the_error_names_the_reason(
    artifact: Artifact, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fletcher.runtime.providers.tensorrt.provider.tensorrt_problem", lambda: None)
    none = GpuSystem(problem="there is no NVIDIA driver")
    monkeypatch.setattr("fletcher.runtime.machine.gpus.this_gpus", lambda: none)
    with pytest.raises(ProviderError, match="tensorrt cannot be used here: there is no NVIDIA driver"):
        open_session(artifact, variant, provider="tensorrt")


def gpu_with(**changes: Any) -> Gpu:
    return dataclasses.replace(H200, **changes)


def raising(message: str) -> Callable[[Path, str], None]:
    def fail(model: Path, provider: str) -> None:
        raise RuntimeError(message)

    return fail
