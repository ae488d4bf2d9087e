"""Each operator and its reference: through ONNX Runtime's C API with emulated kernels, and with the kernels on a GPU."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.runtime.kernels import library
from fletcher.runtime.kernels.build import build_kernels

from .checks import HEADS, PRECISIONS, WIDTHS, Subject, check_gate, check_heads, check_norm

HERE = Path(__file__).parent


#: A launch of a kernel in CUDA's language: kernel, blocks and threads.
LAUNCH = re.compile(r"(\w+<[\w:, ]+>)<<<(\w+), (\w+), 0, stream>>>\(")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Return the operators with their glue to ONNX Runtime and their kernels, emulated on the processor."""
    if shutil.which("g++") is None:
        pytest.skip("g++ compiles the operators")
    folder = tmp_path_factory.mktemp("kernels")
    source, launches = LAUNCH.subn(r"emulated::launch(\2, \3, \1, ", (library.SOURCE / "kernels.cu").read_text())
    assert launches == 5 and "<<<" not in source
    (folder / "kernels.cpp").write_text(source)
    subprocess.run(
        [
            *(
                "g++",
                "-shared",
                "-fPIC",
                "-O1",
                "-std=c++17",
                "-Wall",
                "-Wextra",
                "-Wno-unused-parameter",
                "-Wno-unknown-pragmas",
                "-Werror",
            ),
            *("-fvisibility=hidden", "-fno-strict-aliasing", f"-I{HERE / 'emulated'}", f"-I{library.SOURCE}"),
            *('-DFLETCHER_PROVIDER="CPUExecutionProvider"', '-DFLETCHER_DIGEST="host"', "-o", str(folder / "host.so")),
            *(str(library.SOURCE / "operators.cpp"), str(folder / "kernels.cpp")),
        ],
        check=True,
    )
    return Subject(folder / "host.so", "CPUExecutionProvider")


@pytest.fixture(scope="session")
def device() -> Subject:
    """Return the operators with their kernels, built with nvcc."""
    return Subject(build_kernels()[0], "CUDAExecutionProvider")


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.getfixturevalue(request.param)
    return found


def _cases(*choices: Sequence[object]) -> list[Any]:
    """Return all combinations: on the processor, of which a fifth runs each time, and on a GPU."""
    combinations = list(itertools.product(*choices))
    host = [
        pytest.param("host", *values, marks=() if number % 5 == number // 5 % 5 else pytest.mark.slow)
        for number, values in enumerate(combinations)
    ]
    return host + [pytest.param("device", *values, marks=pytest.mark.gpu) for values in combinations]


@pytest.mark.parametrize(
    ("subject", "precision", "width", "with_residual"), _cases(PRECISIONS, WIDTHS, (False, True)), indirect=["subject"]
)
def test_norms_and_sums(subject: Subject, precision: str, width: int, with_residual: bool) -> None:
    check_norm(subject, precision, width, with_residual=with_residual)


@pytest.mark.parametrize(
    ("subject", "precision", "activation", "width"),
    _cases(PRECISIONS, ("silu", "gelu", "gelu_tanh"), (8, 40, 3072)),
    indirect=["subject"],
)
def test_gates(subject: Subject, precision: str, activation: str, width: int) -> None:
    check_gate(subject, precision, activation, width)


@pytest.mark.parametrize(
    ("subject", "precision", "heads", "interleaved", "normed", "packed", "with_values"),
    _cases(PRECISIONS, HEADS, *[(False, True)] * 4),
    indirect=["subject"],
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


@pytest.mark.parametrize("subject", ["host", pytest.param("device", marks=pytest.mark.gpu)], indirect=True)
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
