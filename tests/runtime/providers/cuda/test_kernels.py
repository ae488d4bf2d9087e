"""Graphs with Fletcher's operators: the library that a session of CUDA registers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fletcher import Encoder
from fletcher.convert.export.export import export
from fletcher.runtime.artifact.graph.domains import operator_domains
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, ProviderError
from fletcher.runtime.kernels.build import build_kernels
from fletcher.runtime.origin.tolerances import TOLERANCES
from fletcher.runtime.providers.cuda import ort
from tests.convert.families.decoders.checkpoints import save_qwen3


class Runtime:
    """Double of ONNX Runtime that records the libraries of a session's options."""

    __version__ = "1.31.1"

    def __init__(self) -> None:
        self.registered: list[str] = []
        runtime = self

        class Options(SimpleNamespace):
            def add_session_config_entry(self, key: str, value: str) -> None:
                """Take the entry."""

            def register_custom_ops_library(self, path: str) -> None:
                runtime.registered.append(path)

        self.SessionOptions = Options

    def InferenceSession(self, graph: Any, options: Any, **_: object) -> Any:
        return SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"])


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    fake = Runtime()
    monkeypatch.setattr(ort, "import_onnxruntime", lambda: fake)
    return fake


def graph(*domains: str) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    sets = [helper.make_opsetid(domain, 1) for domain in domains]
    data: bytes = helper.make_model(
        helper.make_graph([], "g", [value], [value]), opset_imports=sets
    ).SerializeToString()
    return data


def test_domains_are_those_of_onnxs_parser() -> None:
    data = graph("", "com.microsoft", "fletcher")
    assert operator_domains(data) == {entry.domain for entry in onnx.ModelProto.FromString(data).opset_import}
    with pytest.raises(ArtifactError):
        operator_domains(data[:-1])


@pytest.mark.parametrize("as_file", [False, True])
def test_only_a_graph_with_own_operators_gets_the_library(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_file: bool
) -> None:
    monkeypatch.setattr(ort, "find_library", lambda: tmp_path / "kernels.so")
    for domains, registered in ((("", "com.microsoft"), []), (("", "fletcher"), [str(tmp_path / "kernels.so")])):
        data: Any = graph(*domains)
        if as_file:
            (tmp_path / "graph.onnx").write_bytes(data)
            data = tmp_path / "graph.onnx"
        ort.open_inference_session(data, {})
        assert runtime.registered == registered


def test_a_load_without_the_library_names_the_command(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path))
    monkeypatch.delenv("FLETCHER_KERNELS", raising=False)
    with pytest.raises(ProviderError, match=r"not built on this machine.*`fletcher-serve kernels build`"):
        ort.open_inference_session(graph("", "fletcher"), {})
    ort.open_inference_session(graph("", "com.microsoft"), {})


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
def test_vectors_on_a_gpu_are_those_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, pooling: str
) -> None:
    """A causal graph, and a packed one with repeated heads: the canary at the load, and texts of different lengths."""
    monkeypatch.setenv("FLETCHER_KERNELS", str(build_kernels()[0]))
    save_qwen3(tmp_path / "checkpoint")
    rng = np.random.default_rng(0)
    rows = Encodings.from_lists([rng.integers(5, 40, length, np.int32) for length in (1, 2, 17, 64, 90)])
    vectors = []
    for target, each, kernels in (("cuda", precision, True), ("cpu", "fp32", False)):
        folder = tmp_path / target
        options: dict[str, Any] = {"pooling": pooling, "max_tokens": 90, "kernels": kernels}
        export(str(tmp_path / "checkpoint"), folder, targets=(target,), precisions=(each,), **options)
        with Encoder.load(folder, provider="cuda" if target == "cuda" else "mlas") as encoder:
            vectors.append(np.asarray(encoder.compute(rows), np.float64))
    ours, theirs = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors)
    assert np.sum(ours * theirs, 1).min() >= TOLERANCES[precision].min_cosine
