"""Sessions of OpenVINO on the artifact's graph: vectors, threads, errors and telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import read_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import MissingPackageError, ProviderError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.needs import missing
from fletcher.runtime.providers.openvino.provider import OPENVINO_BF16
from fletcher.runtime.providers.openvino.session import OpenVinoSession


def ragged(seed: int, texts: int) -> Encodings:
    rng = np.random.default_rng(seed)
    return Encodings.from_lists([rng.integers(5, 30, size=rng.integers(1, 20), dtype=np.int32) for _ in range(texts)])


#: Program that prints the events that OpenVINO's telemetry would send.
TELLTALE = """
import sys
from pathlib import Path
from openvino_telemetry.backend.backend_ga4 import GA4Backend
GA4Backend.send = lambda self, message: print("would send", message["events"][0]["params"]["event_label"])
if sys.argv[1:]:
    from fletcher.runtime.providers.openvino.session import OpenVinoSession
    OpenVinoSession(Path(sys.argv[1]), precision="fp32", threads=1, workers=1).close()
    assert sys.modules["openvino_telemetry"].Telemetry
else:
    import openvino
"""


def graph_of(artifact: Path) -> Path:
    return artifact / Artifact.open(artifact).variant().file


def test_the_real_model_reproduces_huggingfaces_vectors(minilm_artifact: Path) -> None:
    canary = read_canary(minilm_artifact / "canary.safetensors")
    with OpenVinoSession(graph_of(minilm_artifact), precision="fp32", threads=1, workers=1) as session:
        assert session.provider == "OpenVINO CPU f32"
        np.testing.assert_allclose(session.run(canary.encodings), canary.vectors, rtol=0, atol=1e-6)


def test_bf16_stays_near_huggingfaces_vectors(minilm_artifact: Path) -> None:
    if (problem := missing(OPENVINO_BF16, this_machine())) is not None:
        pytest.skip(problem)
    canary = read_canary(minilm_artifact / "canary.safetensors")
    with OpenVinoSession(graph_of(minilm_artifact), precision="bf16", threads=1, workers=1) as session:
        assert session.provider == "OpenVINO CPU bf16"
        vectors = session.run(canary.encodings)
    cosines = (vectors * canary.vectors).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() > 0.9995
    assert np.abs(vectors - canary.vectors).max() > 1e-5  # so bf16 was used


def test_threads_share_a_session_and_get_separate_results(tiny_artifact: Path) -> None:
    batches = [ragged(seed, 1 + seed % 7) for seed in range(40)]
    with OpenVinoSession(graph_of(tiny_artifact), precision="fp32", threads=1, workers=3) as session:
        alone = [session.run(batch) for batch in batches]
        copies = [vectors.copy() for vectors in alone]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(session.run, batches))
    for single, copy, shared in zip(alone, copies, together, strict=True):
        np.testing.assert_array_equal(single, copy)  # no later run changed an earlier result
        np.testing.assert_allclose(shared, copy, rtol=0, atol=1e-6)


def test_a_failed_batch_releases_its_request(tiny_artifact: Path) -> None:
    with OpenVinoSession(graph_of(tiny_artifact), precision="fp32", threads=1, workers=1) as session:
        broken = Encodings(np.zeros((1, 2, 3), np.int32), np.array([0, 2]), np.zeros(1, np.int32))
        for _ in range(3):
            with pytest.raises(ProviderError, match="OpenVINO cannot compute a batch"):
                session.run(broken)
        assert session.run(ragged(0, 2)).shape == (2, 32)
        with pytest.raises(ProviderError, match="has no output 'nothing'"):
            session.run(ragged(0, 2), "nothing")
    with pytest.raises(ProviderError, match="closed"):
        session.run(ragged(0, 2))


def test_a_file_that_is_not_a_graph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ProviderError, match=r"cannot read .*graph\.onnx"):
        OpenVinoSession(tmp_path / "graph.onnx", precision="fp32", threads=1, workers=1)


def test_without_openvino_the_extra_is_named(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"longbow-fletcher\[openvino\]"):
        OpenVinoSession(graph_of(tiny_artifact), precision="fp32", threads=1, workers=1)


def test_telemetry_of_openvino_is_off(tiny_artifact: Path, tmp_path: Path) -> None:
    """`import openvino` without Fletcher sends an event and writes an identity into the home folder."""
    silencing = {"CI", "TF_BUILD", "JENKINS_URL"}  # telemetry is off if one of these is set

    def printed(home: str, *arguments: str) -> str:
        (tmp_path / home).mkdir()
        environment = {name: value for name, value in os.environ.items() if name not in silencing}
        environment["HOME"] = str(tmp_path / home)
        command = [sys.executable, "-c", TELLTALE, *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert "would send general_import" in printed("plain")
    assert (tmp_path / "plain" / "intel").is_dir()
    assert printed("ours", str(graph_of(tiny_artifact))) == ""
    assert list((tmp_path / "ours").iterdir()) == []
