"""Server process: addresses, ports, signals, and a shutdown that answers admitted requests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.runtime.artifact.manifest import Verification
from fletcher.runtime.artifact.writing import stamp
from fletcher.runtime.errors import InputError
from fletcher.serve.access.addresses import HostPort, parse
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from .fake_encoder import FakeEncoder, expected, info, request_for

SECONDS = 20.0

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tests.serve.fake_encoder import FakeEncoder
from fletcher.serve.server import run_server
from fletcher.serve.server_options import ServerOptions

def announce(server):
    addresses = server.addresses
    print(json.dumps([addresses.http, addresses.flight]), flush=True)

options = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=float(sys.argv[3]))
run_server(FakeEncoder(delay=float(sys.argv[2]), workers=1, token_budget=16), options, on_listening=announce)
print("returned", flush=True)
"""


@contextmanager
def process(delay: float = 0.0, drain: float = 10.0) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run a server in a separate process. Yield the process and the addresses of HTTP and Flight."""
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[2]), str(delay), str(drain)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        http, flight = json.loads(running.stdout.readline())
        yield running, http, flight
    finally:
        running.kill()
        running.communicate()


def embed(url: str, text: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/embeddings", json={"model": "fake-model", "input": text}, timeout=SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(number: signal.Signals) -> None:
    with process() as (running, http, flight):
        assert http.startswith("http://127.0.0.1:")
        assert embed(http, "ab").json()["data"][0]["embedding"] == expected("ab").tolist()
        with fl.connect(flight) as client:
            assert next(iter(client.do_action("health")))
        running.send_signal(number)
        out, err = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, err
    assert out == "returned\n"
    for line in err.splitlines():
        json.loads(line)  # every line of the log is a JSON object


def test_a_stop_under_load_answers_every_admitted_request() -> None:
    with process(delay=0.12) as (running, http, _):
        with ThreadPoolExecutor(24) as pool:
            answers = [pool.submit(embed, http, f"text {index:02}") for index in range(24)]
            while "fletcher_admission_admitted_total 24.0" not in httpx.get(f"{http}/metrics").text:
                time.sleep(0.02)
            assert not all(answer.done() for answer in answers)  # a batch has one request, so most of them still wait
            running.send_signal(signal.SIGTERM)
            responses = [answer.result(SECONDS) for answer in answers]
        assert running.wait(SECONDS) == 0
    for index, response in enumerate(responses):
        assert response.status_code == 200
        assert response.json()["data"][0]["embedding"] == expected(f"text {index:02}").tolist()


def test_the_drain_limit_ends_a_stop_that_would_take_longer() -> None:
    with process(delay=1.5, drain=2.0) as (running, http, _):
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(embed, http, f"text {index:02}") for index in range(6)]
            while "fletcher_admission_admitted_total 6.0" not in httpx.get(f"{http}/metrics").text:
                time.sleep(0.02)
            running.send_signal(signal.SIGTERM)
            statuses = {answer.result(SECONDS).status_code for answer in answers}
        assert running.wait(SECONDS) == 0
    assert statuses == {200, 503}


def test_a_stopping_server_is_not_ready_and_rejects_requests() -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()
    server = Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off"))
    blocker = server.engine.submit(request_for(["ab"]))
    with httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS) as client:
        assert client.get("/ready").status_code == 200
        server.engine.stop_admitting()
        ready, refused = client.get("/ready"), client.post("/v1/embeddings", json={"model": "fake", "input": "a"})
        assert (ready.status_code, refused.status_code) == (503, 503)
        assert refused.json()["error"]["code"] == "stopping"
        assert "retry-after" in refused.headers
    encoder.gate.set()
    server.stop()
    np.testing.assert_array_equal(blocker.result(SECONDS).vectors[0], expected("ab"))


@pytest.mark.parametrize("door", ["http", "flight"])
def test_the_error_of_a_port_in_use_names_the_option(door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        options = ServerOptions(http="off", flight="off").replace(**{door: f"127.0.0.1:{port}"})
        with pytest.raises(
            InputError, match=rf"--{door} 127\.0\.0\.1:{port}: the port is in use.*--{door} 127\.0\.0\.1:0"
        ):
            Server(FakeEncoder(), options)


def test_a_failed_start_closes_its_ports_and_threads() -> None:
    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as occupied, socket.create_server(("127.0.0.1", 0)) as free:
        http = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        with pytest.raises(InputError):
            Server(FakeEncoder(), ServerOptions(http=http, flight=f"127.0.0.1:{occupied.getsockname()[1]}"))
        socket.create_server(("127.0.0.1", int(http.rsplit(":", 1)[1]))).close()
    assert threading.active_count() == threads


def test_a_server_needs_http_or_flight() -> None:
    with Server(FakeEncoder(), ServerOptions(http="off", flight="127.0.0.1:0")) as server:
        assert server.addresses.http is None
    with Server(
        FakeEncoder(), ServerOptions(http="[::1]:0" if socket.has_ipv6 and _has_ipv6() else "localhost:0", flight="off")
    ) as server:
        assert server.addresses.flight is None
        assert embed(str(server.addresses.http), "ab").status_code == 200
    with pytest.raises(InputError, match="neither"):
        Server(FakeEncoder(), ServerOptions(http="off", flight="off"))


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", HostPort("127.0.0.1", 8080)),
        ("[::1]:0", HostPort("::1", 0)),
        (":8080", HostPort("127.0.0.1", 8080)),
        ("example.org:65535", HostPort("example.org", 65535)),
    ],
)
def test_addresses(text: str, address: HostPort) -> None:
    assert parse(text, "--http") == address


@pytest.mark.parametrize("text", ["", "8080", "host", "host:", "host:x", "host:70000", "::1:80", "host:-1", "host:٣"])
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(InputError, match="--http"):
        parse(text, "--http")


def test_a_host_of_another_machine() -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(InputError, match=host.replace(".", r"\.")):
            Server(FakeEncoder(), ServerOptions(http=f"{host}:0", flight="off"))


def test_http_and_flight_return_the_same_vectors(http_url: str, flight_url: str) -> None:
    over_http = embed(http_url, "ab").json()["data"][0]["embedding"]
    with fl.connect(flight_url) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
        with writer:
            batch = pa.RecordBatch.from_pydict({"text": ["ab"]})
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            over_flight = reader.read_all()["vector"][0].as_py()
    assert over_http == over_flight == expected("ab").tolist()


def test_serving_imports_no_torch_transformers_onnx_or_convert() -> None:
    script = "import sys, fletcher.serve.server; print(sorted(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=os.sep
    ).stdout
    for name in ("'torch'", "'transformers'", "'optimum'", "'onnx'", "'opentelemetry'", "'fletcher.convert'"):
        assert name not in shown


def test_a_server_that_requires_verified_models_refuses_a_self_made_canary() -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", require_verified=True)
    encoder = FakeEncoder()
    with pytest.raises(InputError, match="its canary is self-made"):
        Server(encoder, options)
    for canary in ("published", "verified"):
        encoder.info = info(canary=canary, proof=f"{canary} by hand")
        with Server(encoder, options) as server, httpx.Client(base_url=server.addresses.http or "") as client:
            assert client.get("/ready").json()["canary"] == canary
            described = client.get("/v1/models").json()["data"][0]
            assert (described["canary"], described["proof"]) == (canary, f"{canary} by hand")
            labels = f'canary="{canary}",model="fake-model",provider="by hand",variant="cpu-fp32",version="1"'
            assert f"fletcher_model_info{{{labels}}} 1.0" in client.get("/metrics").text


def test_a_self_made_artifact_is_refused_before_it_is_loaded_and_the_command_that_helps_is_named(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    loaded: list[ModelSpec] = []

    def load(spec: ModelSpec) -> FakeEncoder:
        loaded.append(spec)
        return FakeEncoder()

    options = ServerOptions(http="127.0.0.1:0", flight="off", require_verified=True)
    specs = [ModelSpec(path=str(path), name="fake-model")]
    with pytest.raises(InputError, match=f"fletcher-convert model verify {path}"):
        Server(specs, options, load=load)
    assert loaded == []
    by = "sentence-transformers 6.2.0 (SentenceTransformer)"
    stamp(path, Verification(reference="tiny", by=by, time="2026-01-01T00:00:00Z", texts=3, tools={}, figures={}))
    with Server(specs, options, load=load):
        assert loaded == specs


def test_open_connections_are_a_metric(http_url: str) -> None:
    with httpx.Client(base_url=http_url) as first, httpx.Client(base_url=http_url) as second:
        first.get("/health")
        assert "fletcher_http_connections 2.0" in second.get("/metrics").text.splitlines()
