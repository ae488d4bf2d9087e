"""Each operator and its reference: by ONNX Runtime's C API on the processor, and on a GPU with the kernels themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fletcher.runtime.kernels import library
from fletcher.runtime.kernels.build import build_kernels

from .checks import HEADS, PRECISIONS, WIDTHS, Subject, check_gate, check_heads, check_norm

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Return the operators with their glue to ONNX Runtime as it is, and with work on the processor."""
    if shutil.which("g++") is None:
        pytest.skip("g++ compiles the operators")
    output = tmp_path_factory.mktemp("kernels") / "host.so"
    subprocess.run(
        [
            *("g++", "-shared", "-fPIC", "-O1", "-std=c++17", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"),
            *("-fvisibility=hidden", '-DFLETCHER_PROVIDER="CPUExecutionProvider"', '-DFLETCHER_DIGEST="host"'),
            *(f"-I{library.SOURCE}", "-o", str(output), str(library.SOURCE / "operators.cpp"), str(HERE / "host.cpp")),
        ],
        check=True,
    )
    return Subject(output, "CPUExecutionProvider")


@pytest.fixture(scope="session")
def device() -> Subject:
    """Return the operators with their kernels, built with nvcc."""
    return Subject(build_kernels()[0], "CUDAExecutionProvider")


ON = [pytest.param("host"), pytest.param("device", marks=pytest.mark.gpu)]


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("subject", ON, indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_norms_and_sums(subject: Subject, precision: str, width: int, with_residual: bool) -> None:
    check_norm(subject, precision, width, with_residual=with_residual)


@pytest.mark.parametrize("subject", ON, indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("width", [8, 40, 3072])
def test_gates(subject: Subject, precision: str, activation: str, width: int) -> None:
    check_gate(subject, precision, activation, width)


@pytest.mark.parametrize("subject", ON, indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("packed", "with_values"), [(False, True), (False, False), (True, False), (True, True)])
def test_heads(
    subject: Subject,
    precision: str,
    heads: tuple[int, int, int],
    interleaved: bool,
    normed: bool,
    packed: bool,
    with_values: bool,
) -> None:
    layout = {"interleaved": interleaved, "packed": packed, "with_values": with_values}
    check_heads(subject, precision, heads, normed=normed, **layout)
