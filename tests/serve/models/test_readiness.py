"""A model is not ready while its artifact's files are not those that were loaded, in one process and with fronts."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fletcher.runtime.errors import SignatureError
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models import readiness
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from .quick_files_child import FILES_SECONDS

WEIGHTS = "weights.fp32.safetensors"


@pytest.fixture
def own_artifact(tmp_path: Path, tiny_artifact: Path) -> Path:
    """Return a copy of `tiny_artifact` that the test may change."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))


@contextmanager
def running(artifact: Path, fronts: int) -> Iterator[str]:
    spec = ModelSpec(path=str(artifact), name="tiny", provider="mlas")
    options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=fronts)
    command = (sys.executable, str(Path(__file__).with_name("quick_files_child.py")))
    with Supervisor([spec], options, command=command) if fronts else Server([spec], options) as server:
        assert server.addresses.http is not None
        yield server.addresses.http


def answer(url: str, status: int) -> dict[str, str]:
    """Wait until `/ready` has a status, and return its answer."""
    end = time.monotonic() + 60
    while (found := httpx.get(f"{url}/ready")).status_code != status:
        assert time.monotonic() < end, found.text
        time.sleep(0.1)
    content: dict[str, str] = found.json()
    return content


@pytest.mark.parametrize("fronts", [0, 2])
def test_a_change_in_place_lowers_readiness_until_it_is_undone(
    own_artifact: Path, fronts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "FILES_SECONDS", FILES_SECONDS)  # with fronts the engine process has its own
    file = own_artifact / WEIGHTS
    content = file.read_bytes()
    with running(own_artifact, fronts) as url:
        answer(url, 200)
        with file.open("r+b") as stream:
            stream.seek(-4, os.SEEK_END)
            stream.write(b"\x00\x00\x80\x3f")
        assert f"the file {WEIGHTS} of the artifact was changed in place" in answer(url, 503)["reason"]
        assert answer(url, 503)["status"] == "not ready"
        with file.open("r+b") as stream:
            stream.write(content)
        answer(url, 200)


@pytest.mark.parametrize("fronts", [0, 1])
def test_a_servers_signer_is_required_of_every_model(own_artifact: Path, tmp_path: Path, fronts: int) -> None:
    pytest.importorskip("model_signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = tmp_path / "key.pub"
    key.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    spec = ModelSpec(path=str(own_artifact), name="tiny", provider="mlas")
    options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=fronts, trusted_signer=f"key:{key}")
    with pytest.raises(SignatureError, match="has no signature"):
        (Supervisor([spec], options) if fronts else Server([spec], options)).__enter__()
