"""Three server processes of a real model behind a balancer: killed, drained and exchanged under load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.convert.export.export import export
from fletcher.runtime import Encoder

from ...convert.tiny import save_bert, save_modules
from ...doubles.s3_server import free_ports
from .balancers import Balanced, balanced, cluster_of

pytestmark = pytest.mark.slow

TEXTS = [f"text {number}" for number in range(16)]
COMMAND = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()"]
MODEL = {"x-gateway-model-name": "tiny"}
SECONDS = 60.0


@pytest.fixture(scope="module")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an artifact like `tiny_artifact` whose vectors are not normalized: another space."""
    folder = tmp_path_factory.mktemp("other")
    save_bert(folder / "checkpoint")
    save_modules(folder / "checkpoint", normalize=False)
    export(str(folder / "checkpoint"), folder / "artifact")
    return folder / "artifact"


def vectors_of(artifact: Path) -> np.ndarray[Any, Any]:
    with Encoder.load(artifact, provider="mlas") as encoder:
        found: np.ndarray[Any, Any] = encoder.embed(TEXTS).vectors
        return found


@dataclass
class Process:
    """`Process`: a server on fixed ports, which can be started again."""

    folder: Path
    http: int
    flight: int
    options: list[str]
    running: subprocess.Popen[str] | None = None

    def write(self, artifact: Path) -> None:
        """Write its file of models."""
        model = {"path": str(artifact), "name": "tiny", "provider": "mlas", "cache": 0}
        lines = [f"{key} = {json.dumps(value)}" for key, value in model.items()]
        (self.folder / "server.toml").write_text("[[models]]\n" + "\n".join(lines) + "\n")

    def start(self) -> None:
        words = [*COMMAND, "run", "--json", "--config", str(self.folder / "server.toml")]
        words += ["--http", f"127.0.0.1:{self.http}", "--flight", f"127.0.0.1:{self.flight}", *self.options]
        with (self.folder / "log").open("ab") as log:
            self.running = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self.running.stdout is not None
        assert self.running.stdout.readline(), (self.folder / "log").read_text()[-2000:]

    def signal(self, number: int) -> None:
        assert self.running is not None
        os.kill(self.running.pid, number)

    def kill(self) -> None:
        """Kill the server and its fronts, as a machine that fails does."""
        if self.running is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait(30)
            self.close()

    def close(self) -> None:
        """Close the pipe of a process that has ended."""
        if self.running is not None and self.running.stdout is not None:
            self.running.stdout.close()


@dataclass
class Load:
    """`Load`: clients that embed `TEXTS` one at a time until they are stopped.

    Attributes:
        answers: status of each request, or the class of its exception.
        wrong: answers whose vector is none of the expected ones.
    """

    url: str
    expected: list[np.ndarray[Any, Any]]
    clients: int = 6
    answers: Counter[object] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seen: Counter[int] = field(default_factory=Counter)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                row = number % len(TEXTS)
                number += 1
                try:
                    body = {"input": TEXTS[row], "model": "tiny"}
                    answer = client.post(f"{self.url}/v1/embeddings", json=body, headers=MODEL)
                    result: object = answer.status_code
                except httpx.TransportError as error:
                    result = type(error).__name__
                with self._lock:
                    self.answers[result] += 1
                    if result == 200:
                        self._compare(row, np.array(answer.json()["data"][0]["embedding"], np.float32))

    def _compare(self, row: int, vector: np.ndarray[Any, Any]) -> None:
        for version, expected in enumerate(self.expected):
            if np.allclose(vector, expected[row], atol=1e-5):
                self.seen[version] += 1
                return
        self.wrong.append(TEXTS[row])


@dataclass
class Deployment:
    """`Deployment`: three processes behind a balancer."""

    balancer: Balanced
    processes: list[Process]
    file: Path


@pytest.fixture
def start(tmp_path: Path, tiny_artifact: Path) -> Iterator[Callable[[str, int], Deployment]]:
    """Return a function that starts three servers behind a balancer."""
    with ExitStack() as stack:

        def begin(name: str, fronts: int) -> Deployment:
            ports = free_ports(6)
            options = ["--fronts", str(fronts), "--lame-duck-seconds", "5", "--trusted-proxy", "127.0.0.1"]
            processes = []
            for number in range(3):
                folder = tmp_path / f"server{number}"
                folder.mkdir()
                process = Process(folder, ports[2 * number], ports[2 * number + 1], options)
                process.write(tiny_artifact)
                stack.callback(process.kill)
                process.start()
                processes.append(process)
            members = {
                f"s{number}": (f"127.0.0.1:{process.http}", f"127.0.0.1:{process.flight}")
                for number, process in enumerate(processes)
            }
            cluster = cluster_of({"tiny": (("tiny",), members)}, check_seconds=0.5)
            lines = ['[[pools]]\nname = "tiny"\nmodels = ["tiny"]']
            lines += [f'[[pools.instances]]\nname = "{each}"\nhttp = "{at}"' for each, (at, _) in members.items()]
            (tmp_path / "cluster.toml").write_text("\n".join(lines))
            running = stack.enter_context(balanced(name, cluster, tmp_path))
            return Deployment(running, processes, tmp_path / "cluster.toml")

        yield begin


BOTH = pytest.mark.parametrize(("name", "fronts"), [("haproxy", 0), ("haproxy", 2), ("envoy", 0)])


@BOTH
def test_a_killed_server_costs_few_requests_and_comes_back(
    name: str, fronts: int, start: Callable[[str, int], Deployment], tiny_artifact: Path
) -> None:
    deployment = start(name, fronts)
    with Load(deployment.balancer.http, [vectors_of(tiny_artifact)]) as load:
        time.sleep(2)
        deployment.processes[1].kill()
        time.sleep(3)
        deployment.processes[1].start()
        until(lambda: requests_of(deployment.processes[1]) > 0)
        time.sleep(1)
    total = sum(load.answers.values())
    failed = total - load.answers[200]
    assert failed <= 0.005 * total, load.answers
    assert set(load.answers) <= {200, 502, 503}
    assert not load.wrong


@BOTH
def test_drained_servers_lose_no_request_and_no_stream(
    name: str, fronts: int, start: Callable[[str, int], Deployment], tiny_artifact: Path
) -> None:
    deployment = start(name, fronts)
    expected = vectors_of(tiny_artifact)
    ended = threading.Event()
    streams: list[Any] = []

    def stream() -> None:
        """Keep Flight streams and streams of lines open over each stop."""
        options = fl.FlightCallOptions(headers=[(b"x-gateway-model-name", b"tiny")])
        while not ended.is_set():
            with fl.connect(deployment.balancer.flight) as client:
                writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
                with writer:
                    writer.begin(pa.schema({"text": pa.string()}))
                    for _ in range(4):  # a stream must end within --lame-duck-seconds
                        writer.write_batch(pa.record_batch({"text": TEXTS}))
                        chunk = reader.read_chunk().data
                        vectors = np.stack(chunk["vector"].to_numpy(zero_copy_only=False))
                        streams.append(np.allclose(vectors, expected, atol=1e-5))
                    writer.done_writing()
                    reader.read_all()

    failures: list[BaseException] = []

    def kept() -> None:
        try:
            stream()
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            failures.append(error)

    thread = threading.Thread(target=kept)
    with Load(deployment.balancer.http, [expected]) as load:
        thread.start()
        for process in deployment.processes:
            process.signal(signal.SIGTERM)
            assert process.running is not None and process.running.wait(SECONDS) == 0
            process.close()
            process.start()
            until(lambda: requests_of(process) > 0)  # noqa: B023 (it is called here)
        ended.set()
    thread.join(SECONDS)
    assert not failures, failures
    assert set(load.answers) == {200}, load.answers
    assert not load.wrong and all(streams) and len(streams) > 30


@BOTH
def test_a_model_is_exchanged_on_all_servers_without_a_failed_request(
    name: str, fronts: int, start: Callable[[str, int], Deployment], tiny_artifact: Path, other_artifact: Path
) -> None:
    deployment = start(name, fronts)
    codes = [status_of(deployment)]
    with Load(deployment.balancer.http, [vectors_of(tiny_artifact), vectors_of(other_artifact)]) as load:
        for process in deployment.processes:
            time.sleep(0.5)
            process.write(other_artifact)
            before = digest_of(process)
            process.signal(signal.SIGHUP)
            until(lambda: digest_of(process) != before)  # noqa: B023 (it is called here)
            codes.append(status_of(deployment))
        time.sleep(0.5)
        load.seen.clear()
        time.sleep(0.5)
    assert set(load.answers) == {200}, load.answers
    assert not load.wrong
    assert load.seen[1] > 0 and load.seen[0] <= load.clients  # answers that were under way
    # One space, two spaces while the change goes on, and one again.
    assert codes == [0, 3, 3, 0]


def status_of(deployment: Deployment) -> int:
    """Return the exit code of `cluster status`."""
    words = [*COMMAND, "cluster", "status", str(deployment.file)]
    return subprocess.run(words, capture_output=True, text=True, check=False).returncode


def requests_of(process: Process) -> float:
    """Return the number of embedding requests that a server has answered since its start."""
    try:
        page = httpx.get(f"http://127.0.0.1:{process.http}/metrics").text
    except httpx.TransportError:
        return 0.0
    lines = [line for line in page.splitlines() if line.startswith("fletcher_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'route="/v1/embeddings"' in line)


def digest_of(process: Process) -> str:
    answer = httpx.get(f"http://127.0.0.1:{process.http}/v1/models", timeout=30).raise_for_status()
    return str(answer.json()["data"][0]["digest"])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
