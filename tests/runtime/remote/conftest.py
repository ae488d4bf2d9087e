"""Fixtures: an S3 server, a proxy in front of it, a cache of its own for each test, and artifacts of any size."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fletcher.runtime import Artifact
from fletcher.runtime.artifact.writing import describe_files, write_manifest
from fletcher.runtime.remote import store

from ...doubles.s3_server import environment
from ...doubles.tcp_proxy import TcpProxy

pytest.importorskip("obstore")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty cache folder of this test; requests are repeated soon."""
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "RETRIES", 2)
    return tmp_path / "cache" / "artifacts"


@pytest.fixture
def proxy(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """Return a proxy in front of the S3 server; the environment names the proxy."""
    with TcpProxy(s3_server) as proxy:
        for name, value in environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def make(tmp_path: Path, tiny_artifact: Path) -> Callable[..., Path]:
    """Return a function that makes an artifact with a file of random bytes, which no variant uses."""

    def make(name: str = "artifact", *, size: int = 0, seed: int = 0) -> Path:
        folder = tmp_path / "made" / name
        shutil.copytree(tiny_artifact, folder)
        if size:
            (folder / "extra.bin").write_bytes(np.random.default_rng(seed).bytes(size))
        return restamp(folder)

    return make


def restamp(folder: Path) -> Path:
    """Write the manifest of an artifact anew for the files that it has now."""
    manifest = Artifact.open(folder).manifest
    write_manifest(folder, msgspec.structs.replace(manifest, files=describe_files(folder)))
    return folder


@pytest.fixture
def unique() -> str:
    """Return a path in the bucket that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"
