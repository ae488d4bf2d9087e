"""Each operator and its reference: by ONNX Runtime's C API on the processor, and on a GPU with the kernels themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
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
@pytest.mark.parametrize(
    ("interleaved", "normed", "packed", "with_values"),
    [
        (False, True, False, True),
        (True, False, False, False),
        (False, False, True, False),
        (True, True, True, True),
    ],
)
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


@pytest.mark.parametrize("subject", ON, indirect=True)
def test_shapes_that_have_no_kernel_are_refused(subject: Subject) -> None:
    def error(operator: str, inputs: list[object], outputs: int, **attributes: object) -> str:
        with pytest.raises(Exception, match=operator) as raised:
            subject.run(operator, inputs, outputs, "fp16", **attributes)
        return str(raised.value)

    rows, table = np.ones((2, 3, 32)), np.ones((2, 8))
    heads = {"num_heads": 1, "kv_num_heads": 1, "repeats": 1, "interleaved": 0, "epsilon": 0.0}
    assert "multiple of 8" in error("SkipRmsNorm", [np.ones((2, 12)), np.ones(12)], 1, epsilon=0.0)
    assert "another width" in error("SkipRmsNorm", [np.ones((2, 16)), np.ones(8)], 1, epsilon=0.0)
    assert "another shape" in error("SkipRmsNorm", [np.ones((2, 8)), np.ones(8), np.ones((1, 8))], 2, epsilon=0.0)
    assert "one shape" in error("GatedActivation", [np.ones((2, 8)), np.ones((2, 16))], 1, activation="silu")
    assert "no activation 'relu'" in error("GatedActivation", [np.ones((2, 8))] * 2, 1, activation="relu")
    assert "longer than the tables" in error("HeadNormRotary", [rows, table, table], 2, **heads)
    assert "each pair" in error("HeadNormRotary", [rows, np.ones((3, 4)), np.ones((3, 4))], 2, **heads)
    assert "multiple of 16" in error("HeadNormRotary", [np.ones((2, 3, 16)), table, table], 2, **heads)
    assert "head's width" in error("HeadNormRotary", [rows[:, :2], table, table, np.ones(8)], 2, **heads)
