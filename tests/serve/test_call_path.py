"""Call path of one embeddings request: it passes few functions in few files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .fake_encoder import FakeEncoder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "structure" / "call_path.py"

#: Limits of the call path, so that a reader can follow it.
FUNCTIONS, FILES = 60, 28


@pytest.fixture
def call_path(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("call_path", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "call_path", module)
    spec.loader.exec_module(module)
    return module


def test_an_embeddings_request_calls_few_functions_in_few_files(call_path: ModuleType) -> None:
    files = call_path.by_file(call_path.record(FakeEncoder))
    # Every request passes these functions, on the event loop and on a worker's thread. So the count includes both threads.
    assert "HttpApp.__call__" in files["serve/http/app.py"]
    assert "BatchWorkers._work" in files["serve/engine/workers.py"]
    assert "Metrics.count_request" in files["serve/observe/metrics.py"]
    functions = sum(map(len, files.values()))
    assert functions <= FUNCTIONS, f"{functions} functions: {files}"
    assert len(files) <= FILES, f"{len(files)} files: {sorted(files)}"
