"""The build of the operators: once for a version, by any of several compilers, complete or not at all."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fletcher.runtime.commandline.console import run
from fletcher.runtime.errors import FletcherError, ProviderError
from fletcher.runtime.kernels import build as module
from fletcher.runtime.kernels import library
from fletcher.runtime.kernels.build import build_kernels, find_nvcc
from fletcher.runtime.kernels.library import built_file, find_library, kernels_folder, source_digest
from fletcher.serve.commands.cli import app

from .conftest import write_nvcc


def test_a_build_is_found_by_loads_and_made_once(nvcc: Path, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="fletcher-serve kernels build"):
        find_library()
    path, is_new = build_kernels()
    assert is_new and path == built_file() == find_library()
    assert source_digest() in path.name
    assert build_kernels() == (path, False)
    (call,) = nvcc.read_text().splitlines()
    assert all(flag in call for flag in library.FLAGS)
    assert sorted(file.name for file in kernels_folder().iterdir()) == [path.name]
    assert not (tmp_path / "injected").exists() and not Path("injected").exists()
    loaded = ctypes.CDLL(str(path))
    assert loaded.RegisterCustomOps is not None


def test_concurrent_builds_both_succeed(nvcc: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: build_kernels(tmp_path / "one.so"), range(2)))
    assert results == [(tmp_path / "one.so", True)] * 2
    assert find_library({"FLETCHER_KERNELS": str(tmp_path / "one.so")}) == tmp_path / "one.so"
    assert not list(tmp_path.glob(".building-*"))


def test_a_named_library_must_exist_and_be_of_this_version(
    nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "named.so"
    with pytest.raises(ProviderError, match=r"FLETCHER_KERNELS names .*named\.so, which does not exist"):
        find_library({"FLETCHER_KERNELS": str(file)})
    file.write_bytes(b"not a library")
    with pytest.raises(ProviderError, match="is not a library of Fletcher's operators"):
        find_library({"FLETCHER_KERNELS": str(file)})
    file.unlink()  # an open library may not be overwritten in place
    build_kernels(file)
    monkeypatch.setattr(library, "source_digest", lambda: "0" * 16)
    with pytest.raises(ProviderError, match=rf"other sources \({source_digest()}\).*`fletcher-serve kernels build -o"):
        find_library({"FLETCHER_KERNELS": str(file)})


def test_the_digest_is_that_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {file.name for file in library.SOURCE.iterdir()}
    assert names == {"kernels.cu", "launch.h", "onnxruntime_abi.h", "operators.cpp"}
    before = source_digest()
    for file in library.SOURCE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(library, "SOURCE", tmp_path)
    assert source_digest.__wrapped__() == before
    (tmp_path / "launch.h").write_text("// other")
    assert source_digest.__wrapped__() != before


def test_the_compilers_message_is_in_the_error(nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "other"
    write_nvcc(home, "#!/bin/sh\necho 'kernels.cu(7): error: expected a ;' >&2\nexit 2\n")
    monkeypatch.setenv("CUDA_HOME", str(home))
    with pytest.raises(ProviderError, match=r"(?s)exit code 2.*kernels\.cu\(7\): error: expected a ;"):
        build_kernels()
    assert not built_file().exists() and not list(kernels_folder().iterdir())


def test_a_compiler_that_writes_nothing_or_hangs_or_cannot_run_fails(
    nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (script, message) in enumerate(
        (("#!/bin/sh\nexit 0\n", "could not compile"), ("#!/bin/sh\nexec sleep 30\n", "did not end"), ("?", "run"))
    ):
        home = tmp_path / str(number)
        write_nvcc(home, script)
        monkeypatch.setenv("CUDA_HOME", str(home))
        monkeypatch.setattr(module, "LONGEST", 0.2)
        with pytest.raises(ProviderError, match=message):
            build_kernels()


def test_missing_compilers_are_named(nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC_CCBIN", "g++-none")
    with pytest.raises(ProviderError, match=r"host compiler g\+\+-none"):
        build_kernels()
    monkeypatch.setattr(module, "find_nvcc", lambda environment: None)
    with pytest.raises(ProviderError, match=r"no nvcc was found.*CUDA_HOME"):
        build_kernels()


def test_a_folder_that_cannot_be_written_is_named(nvcc: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FletcherError, match=r"cannot write .*file/kernels\.so"):
        build_kernels(tmp_path / "file" / "kernels.so")


def test_nvcc_is_found_by_its_folder_by_path_and_in_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("home", "path", "site/nvidia/cu13"):
        write_nvcc(tmp_path / name, "#!/bin/sh\n")
    (tmp_path / "site" / "nvidia" / "__init__.py").write_text("")
    named, on_path = tmp_path / "home" / "bin" / "nvcc", tmp_path / "path" / "bin" / "nvcc"
    assert find_nvcc({"CUDA_HOME": str(tmp_path / "home"), "PATH": str(on_path.parent)}) == named
    assert find_nvcc({"CUDA_HOME": str(tmp_path / "missing"), "PATH": str(on_path.parent)}) == on_path
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert find_nvcc({"PATH": "/none"}) == tmp_path / "site" / "nvidia" / "cu13" / "bin" / "nvcc"


def test_the_command_writes_a_file_for_an_image(
    nvcc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    file = tmp_path / "image" / "kernels.so"
    with pytest.raises(SystemExit) as ended:
        run(app, ["kernels", "build", "-o", str(file), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(file), "built": True}
    assert os.access(file, os.R_OK) and not built_file().exists()
