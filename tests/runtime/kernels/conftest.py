"""A stand-in for nvcc, which compiles a library with the operators' entry points and no operator."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

#: It takes nvcc's arguments, of which the digest and the output count.
SCRIPT = """#!/bin/sh
for argument; do
  case "$previous" in -o) output=$argument;; esac
  case "$argument" in -DFLETCHER_DIGEST=*) digest=$argument;; esac
  previous=$argument
done
echo "$@" >> {log}
echo 'const char* fletcher_kernels_digest() {{ return FLETCHER_DIGEST; }} void RegisterCustomOps() {{}}' |
  gcc -shared -fPIC -x c "$digest" -o "$output" -
"""


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in into CUDA_HOME and the cache into an empty folder, and return the file with its arguments."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc compiles the library")
    log = tmp_path / "calls"
    home = tmp_path / "cuda; touch injected"  # a shell would run the second command
    write_nvcc(home, SCRIPT.format(log=log))
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache; touch injected"))
    monkeypatch.delenv("FLETCHER_KERNELS", raising=False)
    return log


def write_nvcc(home: Path, script: str) -> None:
    """Write an executable `bin/nvcc`."""
    file = home / "bin" / "nvcc"
    file.parent.mkdir(parents=True)
    file.write_text(script)
    file.chmod(0o755)
