"""Server without pyarrow: HTTP works, and errors of features that need Arrow name the extra."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cbor2
import httpx
import numpy as np
import pytest

from fletcher import Encoder

PROGRAM = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
from fletcher.serve.commands.cli import main
main()
"""

SECONDS = 60.0


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `fletcher-serve run` without pyarrow."""
    command = [sys.executable, "-c", PROGRAM, "run", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def client(minilm_artifact: Path) -> Iterator[httpx.Client]:
    """Return a client of a server without pyarrow and without the option --flight."""
    process = start(
        str(minilm_artifact), "--http", "127.0.0.1:0", "--name", "m", "--provider", "mlas", "--workers", "1"
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    addresses = json.loads(line)
    assert addresses.get("flight") is None
    with httpx.Client(base_url=addresses["http"], timeout=SECONDS) as client:
        yield client
    process.terminate()
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "longbow-fletcher[flight]" in log  # the log has the reason why Flight is off


def test_http_without_pyarrow_returns_the_vectors_of_the_encoder(client: httpx.Client, minilm_artifact: Path) -> None:
    texts = ["a text", "another"]
    with Encoder.load(minilm_artifact, provider="mlas", workers=1) as encoder:
        expected = encoder.embed(texts).vectors
    answer = client.post("/v1/embeddings", json={"model": "m", "input": texts})
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose([item["embedding"] for item in answer.json()["data"]], expected, atol=1e-6)
    answer = client.post("/encode", content=cbor2.dumps(texts))
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(cbor2.loads(answer.content), expected, atol=1e-6)


def test_other_routes_answer(client: httpx.Client) -> None:
    for path in ("/ready", "/metrics", "/docs", "/openapi.json", "/v1/models", "/info"):
        assert client.get(path).status_code == 200, path
    assert client.post("/v1/ingest", json={"dataset": "d", "documents": ["a"]}).status_code == 404


def test_an_arrow_stream_is_rejected_and_the_error_names_the_extra(client: httpx.Client) -> None:
    answer = client.post("/encode/arrow", content=b"")
    assert answer.status_code == 415
    assert "pip install 'longbow-fletcher[flight]'" in answer.text


@pytest.mark.parametrize(
    "option", [("--flight", "127.0.0.1:0"), ("--flight", "127.0.0.1:8815"), ("--longbow", "grpc://127.0.0.1:1")]
)
def test_errors_of_requested_features_name_the_extra(minilm_artifact: Path, option: tuple[str, str]) -> None:
    process = start(str(minilm_artifact), "--http", "127.0.0.1:0", "--provider", "mlas", "--workers", "1", *option)
    _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert f"{option[0]} needs the package pyarrow" in error
    assert "pip install 'longbow-fletcher[flight]'" in error
