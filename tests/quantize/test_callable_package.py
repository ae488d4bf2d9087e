"""The package `fletcher.quantize` can be called as a function, and is still a package."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import fletcher.quantize
from fletcher.quantize.quantized_artifact import quantize

BEFORE = ("", "import fletcher.quantize.quantized_artifact", "import fletcher.quantize.sweep.sweep")

CALL = """
import fletcher.quantize as q
from fletcher.runtime.errors import ArtifactError
try:
    q("nothing-there", "out")
except ArtifactError as error:
    assert "nothing-there" in str(error)
else:
    raise AssertionError("no artifact, and no error")
import fletcher.quantize.sweep.sweep
assert fletcher.quantize is q and callable(fletcher.quantize.sweep.sweep.sweep)
"""


@pytest.mark.parametrize("before", BEFORE)
def test_the_package_can_be_called_whatever_was_imported_before(before: str) -> None:
    done = subprocess.run([sys.executable, "-c", before + CALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_module_of_the_package_does_not_import_onnx_before_the_call() -> None:
    script = "import sys, fletcher.quantize.recipe; assert 'onnx' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_has_the_signature_of_the_function() -> None:
    assert inspect.signature(fletcher.quantize) == inspect.signature(quantize)
