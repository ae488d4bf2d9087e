"""Fixtures: servers whose metrics the dashboard and the rules name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

# A machine with fake GPUs that compute on the processor, and an artifact with graphs for it.
from ..runtime.fleet.test_all_gpus import Machine, artifact, machine  # noqa: F401
from ..serve.tls.conftest import Authority


@pytest.fixture
def gpu_server(artifact: Path, machine: Machine, tmp_path: Path) -> Iterator[Server]:  # noqa: F811
    """Return a server with TLS of a version and its shadow on two fake GPUs; it has answered requests, and refused one."""
    machine(2)
    specs = [
        ModelSpec(path=str(artifact), name="tiny", version="1", cache="1MiB"),
        ModelSpec(path=str(artifact), name="tiny", version="2", shadow=True),
    ]
    certificate, key = Authority().server().write(tmp_path / "tls")
    options = ServerOptions(http="127.0.0.1:0", flight="off", tls_cert=str(certificate), tls_key=str(key))
    with Server(specs, options) as server:
        ask(server, 1)
        yield server


def ask(server: Server, count: int) -> None:
    """Send requests of several texts, some of them again, and one that is refused."""
    for number in range(count):
        texts = ["hello", f"hello world {number}", f"the quick brown fox {number}"]
        answer = _post(server, {"input": texts, "model": "tiny"})
        assert answer.status_code == 200, answer.text
    answer = _post(server, {"input": 1, "model": "tiny"})
    assert answer.status_code == 400


def _post(server: Server, body: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{server.addresses.http}/v1/embeddings", json=body, verify=False)
