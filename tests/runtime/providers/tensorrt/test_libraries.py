"""Check for TensorRT's libraries without ONNX Runtime, and messages that say what to install."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fletcher.runtime.errors import MissingPackageError, ProviderError
from fletcher.runtime.machine.gpus import GpuSystem
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.needs import missing, require
from fletcher.runtime.providers.tensorrt import libraries as tensorrt_libraries
from fletcher.runtime.providers.tensorrt.libraries import load_tensorrt, require_provider, rtx_problem, tensorrt_problem
from fletcher.runtime.providers.tensorrt.provider import TENSORRT, TENSORRT_RTX

from ...gpus import H200, RTX_4090

#: Libraries that the provider's library of onnxruntime-gpu 1.31.1 names (`readelf -d`).
NEEDED = b"\0libcublas.so.13\0libnvinfer.so.10\0libnvonnxparser.so.10\0libcudart.so.13\0"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that creates packages. No other packages appear installed."""

    def make(package: str, **files: bytes) -> Path:
        folder = tmp_path / package
        for name, content in files.items():
            file = folder / name.replace("__", "/").replace("_dot_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return folder

    def find(package: str) -> Path | None:
        return folder if (folder := tmp_path / package).is_dir() else None

    monkeypatch.setattr(tensorrt_libraries, "_package_folder", find)
    return make


@pytest.fixture
def onnxruntime_gpu(packages: Callable[..., Path]) -> Path:
    return packages("onnxruntime", capi__libonnxruntime_providers_tensorrt_dot_so=NEEDED)


def install_libraries(folder: Path, *names: str) -> None:
    """Create real libraries under TensorRT's names, because the loader reads them."""
    folder.mkdir()
    for name in names:
        shutil.copy(msgspec._core.__file__, folder / name)


def test_an_onnxruntime_without_the_provider_names_the_extra(packages: Callable[..., Path]) -> None:
    packages("onnxruntime", capi__libonnxruntime_providers_shared_dot_so=b"")
    assert tensorrt_problem() == (
        "no onnxruntime with a TensorRT provider is installed: pip install 'longbow-fletcher[tensorrt]'"
    )
    with pytest.raises(MissingPackageError, match=r"onnxruntime-gpu.*longbow-fletcher\[tensorrt\]"):
        require_provider()


def test_missing_libraries_are_named_with_the_extra(onnxruntime_gpu: Path) -> None:
    require_provider()
    problem = tensorrt_problem()
    assert problem is not None
    assert "libnvinfer.so.10 and libnvonnxparser.so.10, which onnxruntime needs, cannot be loaded" in problem
    assert "pip install 'longbow-fletcher[tensorrt]'" in problem
    assert "LD_LIBRARY_PATH" in problem
    with pytest.raises(ProviderError, match=r"tensorrt cannot be used here: .*libnvinfer\.so\.10"):
        load_tensorrt()


def test_libraries_of_another_version_are_named(onnxruntime_gpu: Path, tmp_path: Path) -> None:
    install_libraries(tmp_path / "tensorrt_libs", "libnvinfer.so.11", "libnvonnxparser.so.11")
    problem = tensorrt_problem()
    assert problem is not None
    assert "(the package tensorrt-cu13 contains libnvinfer.so.11)" in problem


def test_a_file_that_is_not_a_library_counts_as_missing(onnxruntime_gpu: Path, packages: Callable[..., Path]) -> None:
    packages("tensorrt_libs", libnvinfer_dot_so_dot_10=b"text", libnvonnxparser_dot_so_dot_10=b"text")
    assert "cannot be loaded" in (tensorrt_problem() or "")


def test_libraries_of_the_package_are_found(
    onnxruntime_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_libraries(tmp_path / "tensorrt_libs", "libnvinfer.so.10", "libnvonnxparser.so.10")
    assert tensorrt_problem() is None
    fake = dataclasses.make_dataclass("fake", ["getInferLibVersion"])(lambda: 101303)
    monkeypatch.setattr(tensorrt_libraries, "_load", lambda name: fake)
    assert load_tensorrt() == "10.13.3"


@pytest.mark.parametrize("name", ["ORT_TENSORRT_UNAVAILABLE", "ORT_TENSORRT_FP16_ENABLE"])
def test_variables_that_override_the_artifact_are_rejected(
    onnxruntime_gpu: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert tensorrt_problem() == f"{name} would change the options of TensorRT: unset these variables"


def test_the_provider_names_its_missing_libraries(onnxruntime_gpu: Path) -> None:
    assert "libnvinfer.so.10" in (missing(TENSORRT, this_machine()) or "")
    with pytest.raises(ProviderError, match=r"the provider tensorrt cannot be used here: .*libnvinfer\.so\.10"):
        require(TENSORRT, this_machine())


def test_the_plug_in_names_its_extra() -> None:
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[tensorrt-rtx\]"):
        require(TENSORRT_RTX, this_machine())


def test_problems_of_the_plug_in_are_named(packages: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    name = "onnxruntime_ep_nv_tensorrt_rtx"
    packages(name, README=b"")
    assert "is incomplete" in (rtx_problem() or "")
    packages(name, libonnxruntime_providers_nv_tensorrt_rtx_dot_so=b"")
    assert rtx_problem() is None
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.23.2")
    assert "needs onnxruntime 1.24, and 1.23.2 is installed" in (rtx_problem() or "")
    monkeypatch.setattr(tensorrt_libraries, "this_gpus", lambda: GpuSystem((H200,)))
    assert "NVIDIA H200 has 9.0" in (rtx_problem() or "")
    monkeypatch.setattr(tensorrt_libraries, "this_gpus", lambda: GpuSystem((H200, RTX_4090)))
    assert "NVIDIA H200" not in (rtx_problem() or "")
    monkeypatch.setattr("sys.platform", "darwin")
    assert "exists for Linux and Windows" in (rtx_problem() or "")
