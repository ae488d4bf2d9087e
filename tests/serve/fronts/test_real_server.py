"""A server of real processes, as the command starts it: its answers, its faults, and its end."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.runtime import Encoder
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

SECONDS = 60.0
TEXTS = [f"text number {number} {'and more ' * (number % 5)}" for number in range(64)]


@pytest.fixture(scope="module")
def expected(tiny_artifact: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The vector of each text, by the encoder in this process."""
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        return dict(zip(TEXTS, encoder.embed(TEXTS).vectors, strict=True))


@pytest.fixture
def server(tiny_artifact: Path) -> Iterator[Supervisor]:
    spec = ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0)
    options = ServerOptions(
        http="127.0.0.1:0", flight="127.0.0.1:0", fronts=2, drain_seconds=10, admin="on", models_root="/"
    )
    with Supervisor([spec], options) as supervisor:
        yield supervisor


def address(server: Supervisor) -> tuple[str, int]:
    assert server.addresses.http is not None
    host, _, port = server.addresses.http.removeprefix("http://").rpartition(":")
    return host, int(port)


def ask(server: Supervisor, texts: list[str]) -> np.ndarray[Any, Any]:
    """Return the vectors of texts over a new connection.

    Raises:
        OSError, http.client.HTTPException: the connection ended.
        AssertionError: the status is neither 200 nor 503.
    """
    connection = http.client.HTTPConnection(*address(server), timeout=SECONDS)
    try:
        body = json.dumps({"input": texts, "model": "tiny", "encoding_format": "base64"})
        connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status == 503:
            raise ConnectionAbortedError(data)
        assert answer.status == 200, data
        rows = [base64.b64decode(item["embedding"]) for item in json.loads(data)["data"]]
        return np.stack([np.frombuffer(row, np.float32) for row in rows])
    finally:
        connection.close()


def get(server: Supervisor, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address(server), timeout=SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def until(condition: Any, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_http_and_flight_give_the_encoders_vectors(
    server: Supervisor, expected: dict[str, np.ndarray[Any, Any]]
) -> None:
    np.testing.assert_allclose(ask(server, TEXTS), np.stack([expected[text] for text in TEXTS]), atol=1e-6)
    for _ in range(4):  # both fronts
        with fl.connect(str(server.addresses.flight)) as client:
            writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
            batch = pa.record_batch({"text": TEXTS})
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            table = reader.read_all()
            vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))
            np.testing.assert_allclose(vectors, np.stack([expected[text] for text in TEXTS]), atol=1e-6)
            (health,) = client.do_action(fl.Action("health", b""))
            assert json.loads(health.body.to_pybytes())["ready"] is True
            writer.close()
    for path, begin in (
        ("/playground", b"<!doctype html>"),
        ("/playground/app.js", b"/** "),
        ("/v1/card", b'{"model":"tiny"'),
    ):
        status, page = get(server, path)
        assert (status, page[: len(begin)]) == (200, begin)
    status, page = get(server, "/metrics")
    assert status == 200
    lines = [line for line in page.decode().splitlines() if line.startswith("fletcher_requests_total")]
    assert 'fletcher_requests_total{door="http",route="/v1/embeddings",status="200"} 1.0' in lines
    assert 'fletcher_requests_total{door="flight",route="exchange",status="ok"} 4.0' in lines
    residents = [line for line in page.decode().splitlines() if line.startswith("fletcher_process_resident_bytes{")]
    assert sorted(line.split('"')[1] for line in residents) == ["engine", "front-1", "front-2"]
    opened = [http.client.HTTPConnection(*address(server), timeout=SECONDS) for _ in range(6)]
    for connection in opened:  # on both fronts
        connection.request("GET", "/health")
        connection.getresponse().read()
    lines = get(server, "/metrics")[1].decode().splitlines()
    assert "fletcher_http_connections 7.0" in lines  # those and the scrape's own
    assert 'fletcher_model_ready{model="tiny",version="1"} 1.0' in lines
    assert any(line.startswith("fletcher_batch_budget_tokens_total ") and float(line.split()[1]) > 0 for line in lines)
    assert "fletcher_fronts 2.0" in lines
    for connection in opened:
        connection.close()


def test_a_killed_front_comes_back_and_no_vector_is_wrong(
    server: Supervisor, expected: dict[str, np.ndarray[Any, Any]]
) -> None:
    _check_under_load(server, expected, lambda: server.pids[1][0])


def test_a_killed_engine_comes_back_and_no_vector_is_wrong(
    server: Supervisor, expected: dict[str, np.ndarray[Any, Any]]
) -> None:
    _check_under_load(server, expected, lambda: server.pids[0])


def _check_under_load(server: Supervisor, expected: dict[str, np.ndarray[Any, Any]], victim: Any) -> None:
    """Kill a process three times while clients ask, and check every answer."""
    stop = threading.Event()
    answers, failures = [0] * 4, [0] * 4

    def load(number: int) -> None:
        place = number
        while not stop.is_set():
            texts = [TEXTS[(place + step) % len(TEXTS)] for step in range(1 + place % 3)]
            place += 7
            try:
                vectors = ask(server, texts)
            except (OSError, http.client.HTTPException):
                failures[number] += 1
                time.sleep(0.02)
                continue
            np.testing.assert_allclose(vectors, np.stack([expected[text] for text in texts]), atol=1e-6)
            answers[number] += 1

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, number) for number in range(4)]
        try:
            for _ in range(3):
                pid = victim()
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: victim() not in (0, pid))
                until(lambda: _ready(server))
                before = sum(answers)
                until(lambda before=before: sum(answers) > before + 20)
        finally:
            stop.set()
        for client in clients:
            client.result()
    assert sum(answers) > 60


def _ready(server: Supervisor) -> bool:
    try:
        return get(server, "/ready")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_the_command_starts_and_stops_everything(tiny_artifact: Path) -> None:
    command = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "--json", "run"]
    command += [str(tiny_artifact), "--fronts", "2", "--http", "127.0.0.1:0", "--flight", "off", "--provider", "mlas"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = json.loads(line)["http"]
        host, _, port = url.removeprefix("http://").rpartition(":")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 3
        connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
        connection.request("GET", "/ready")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    assert not [child for child in children if child.is_running()]


def test_a_front_starts_with_less_than_60_mb(server: Supervisor) -> None:
    for front in server.pids[1]:  # with Flight; the tiny tokenizer has some kilobytes
        lines = Path(f"/proc/{front}/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
        assert 10e6 < private < 60e6


def test_a_front_loads_no_runtime_and_no_arrow() -> None:
    program = "import sys, fletcher.serve.fronts.child, fletcher.serve.fronts.front.process; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "tokenizers" in modules
    assert not {"onnxruntime", "openvino", "pyarrow", "onnx", "torch", "rich", "typer"} & set(modules)


def test_models_change_through_the_admin_api_in_all_fronts(
    server: Supervisor, tiny_artifact: Path, expected: dict[str, np.ndarray[Any, Any]]
) -> None:
    connection = http.client.HTTPConnection(*address(server), timeout=SECONDS)
    body = json.dumps({"path": str(tiny_artifact), "name": "second", "provider": "mlas"})
    connection.request("POST", "/admin/models", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status in (200, 201), answer.read()
    answer.read()
    connection.close()
    for _ in range(4):  # both fronts know it at once
        client = http.client.HTTPConnection(*address(server), timeout=SECONDS)
        client.request("POST", "/v1/embeddings", json.dumps({"input": TEXTS[0], "model": "second"}))
        answer = client.getresponse()
        vector = json.loads(answer.read())["data"][0]["embedding"]
        np.testing.assert_allclose(np.array(vector, np.float32), expected[TEXTS[0]], atol=1e-6)
        client.close()


def test_fronts_name_the_space_and_refuse_another_one_and_foreign_ids(server: Supervisor, tiny_artifact: Path) -> None:
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        space = encoder.info.space.id
        row = encoder.tokenize(["hello"]).ids.tolist()
        vector = encoder.embed(["hello"]).vectors[0]

    def post(body: dict[str, Any], **headers: str) -> tuple[int, str | None, Any]:
        connection = http.client.HTTPConnection(*address(server), timeout=SECONDS)
        try:
            fields = {"model": "tiny", "encoding_format": "float"} | body
            connection.request("POST", "/v1/embeddings", json.dumps(fields), headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("x-space"), json.loads(answer.read())
        finally:
            connection.close()

    for _ in range(4):  # both fronts
        status, header, body = post({"input": row}, **{"If-Space": space})
        assert (status, header, body["space"]) == (200, space, space)
        np.testing.assert_allclose(body["data"][0]["embedding"], vector, atol=1e-6)
        status, header, body = post({"input": row[1:-1], "special_tokens": False})
        np.testing.assert_allclose(body["data"][0]["embedding"], vector, atol=1e-6)
        status, _, body = post({"input": row[1:-1]})
        assert status == 400 and "check_embedding_ctx_length=False" in body["error"]["message"]
        status, header, body = post({"input": "hello"}, **{"If-Space": "fs1-aaaaaaaaaaaaaaaa"})
        assert (status, header, body["error"]["code"]) == (412, None, "other_space")
        known = json.loads(get(server, "/v1/space?model=tiny")[1])
        assert known["space"] == space and len(known["canary"]["texts"]) == len(known["canary"]["vectors"])
        call = fl.FlightCallOptions(headers=[(b"if-space", b"fs1-aaaaaaaaaaaaaaaa")], timeout=SECONDS)
        with fl.connect(str(server.addresses.flight)) as client:
            with pytest.raises(pa.ArrowInvalid, match="accepts only fs1-aaaaaaaaaaaaaaaa"):
                client.do_get(fl.Ticket(b'{"texts": ["hello"]}'), call)
            table = client.do_get(fl.Ticket(b'{"texts": ["hello"]}')).read_all()
            assert table.schema.metadata[b"fletcher.space"] == space.encode()
