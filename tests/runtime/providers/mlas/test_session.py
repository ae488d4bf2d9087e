"""Sessions of ONNX Runtime's CPU provider: translation of their errors, and bounded memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, MissingPackageError, ProviderError
from fletcher.runtime.providers.mlas.session import MlasSession


def test_an_invalid_graph_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ArtifactError, match=r"cannot load .*graph\.onnx"):
        MlasSession(tmp_path / "graph.onnx", threads=1)


def test_missing_weights_are_an_artifact_error(own_artifact: Path) -> None:
    variant = Artifact.open(own_artifact).variant()
    (own_artifact / variant.weights).unlink()
    with pytest.raises(ArtifactError, match="cannot load"):
        MlasSession(own_artifact / variant.file, threads=1)


def test_a_batch_that_cannot_be_computed_is_a_provider_error(tiny_artifact: Path) -> None:
    with MlasSession(tiny_artifact / "cpu-fp32.onnx", threads=1) as session:
        assert session.provider == "MLAS"
        with pytest.raises(ProviderError, match="cannot compute a batch of 1 texts and 2 tokens"):
            session.run(Encodings.from_lists([[1, 1_000_000]]))
        assert session.run(Encodings.from_lists([[1, 2]])).shape == (1, 32)  # the session still works
    with pytest.raises(ProviderError, match="closed"):
        session.run(Encodings.from_lists([[1, 2]]))


def test_without_onnxruntime_the_extra_is_named(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[cpu\]"):
        MlasSession(tiny_artifact / "cpu-fp32.onnx", threads=1)


def test_memory_does_not_grow_with_the_number_of_shapes(tiny_artifact: Path) -> None:
    """ONNX Runtime's arena can grow with each new shape. After the largest batch, other shapes must not add memory."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")
    rng = np.random.default_rng(0)
    with MlasSession(tiny_artifact / "cpu-fp32.onnx", threads=1) as session:

        def run(shapes: int) -> None:
            for _ in range(shapes):
                lengths = rng.integers(1, 20, size=rng.integers(1, 24))
                session.run(Encodings.from_lists([[5] * int(length) for length in lengths]))

        session.run(Encodings.from_lists([[5] * 20] * 24))
        run(300)
        before = resident(statm)
        run(1500)
        assert resident(statm) - before < 8 << 20


def resident(statm: Path) -> int:
    """Return the resident memory of this process in bytes."""
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
