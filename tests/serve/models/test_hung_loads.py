"""Loads that hang: they have a deadline, take nothing else with them, and do not delay a stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fletcher.serve.engine.backend import Backend
from fletcher.serve.http.apis import service
from fletcher.serve.models import readiness
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

pytestmark = pytest.mark.heavy  # by the seconds that it waits

SECONDS = 30.0
FRONTS = [0, 2]


class Shelf:
    """Loader of encoders; a folder named `slow` waits for `released`.

    Attributes:
        released: event that loads of `slow` wait for.
        encoders: encoders that were loaded, in order.
    """

    def __init__(self) -> None:
        self.released = threading.Event()
        self.encoders: list[Closing] = []

    def __call__(self, spec: ModelSpec) -> Backend:
        if "slow" in spec.path:
            self.released.wait()
        self.encoders.append(Closing())
        return self.encoders[-1]


class Closing(FakeEncoder):
    """Encoder that knows whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.surroundings.fingerprint", lambda spec: spec.path)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.released.set()


def serve(shelf: Shelf, *specs: ModelSpec, load_seconds: float = SECONDS) -> Server:
    options = ServerOptions(
        http="127.0.0.1:0",
        flight="off",
        drain_seconds=2,
        admin="on",
        models_root="/",
        load_seconds=load_seconds,
    )
    return Server(list(specs), options, load=shelf)


def client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS)


def wait_for_thread(prefix: str) -> None:
    until = time.monotonic() + SECONDS
    while not any(thread.name.startswith(prefix) for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def embed(http: httpx.Client, model: str, count: int = 1) -> set[int]:
    body = {"model": model, "input": "ab"}
    return {http.post("/v1/embeddings", json=body).status_code for _ in range(count)}


def test_a_load_has_a_deadline_and_changes_nothing(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="/1", name="m"), load_seconds=0.5) as server, client(server) as http:
        begun = time.monotonic()
        late = http.post("/admin/models", json={"path": "slow", "name": "n"})
        assert (late.status_code, "--load-seconds" in late.text) == (504, True)
        assert 0.4 < time.monotonic() - begun < 5
        assert [model["name"] for model in http.get("/admin/models").json()["models"]] == ["m"]
        assert "fletcher_loads_hung 1.0" in http.get("/metrics").text
        # The next change works, and what the late load opens is closed.
        assert http.post("/admin/models", json={"path": "/2", "name": "n"}).status_code == 200
        shelf.released.set()
        until = time.monotonic() + SECONDS
        while not (len(shelf.encoders) == 3 and shelf.encoders[2].closed):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert embed(http, "n") == {200}
        assert "fletcher_loads_hung 0.0" in http.get("/metrics").text


def test_a_second_change_is_refused_and_the_rest_goes_on(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="/1", name="m")) as server, client(server) as http, ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(
            httpx.post, f"{server.addresses.http}/admin/models", json={"path": "slow", "name": "n"}, timeout=SECONDS
        )
        wait_for_thread("fletcher-load")
        for _ in range(20):  # more than the threads that asyncio has for blocking calls
            begun = time.monotonic()
            assert http.post("/admin/models", json={"path": "/3", "name": "o"}).status_code == 409
            assert http.patch("/admin/models/m", json={"versions": [{"version": "1", "weight": 2}]}).status_code == 409
            assert time.monotonic() - begun < 2
        assert embed(http, "m", 20) == {200}
        assert http.get("/ready").status_code == 200
        assert http.post("/tokenize", json={"inputs": ["a b" * 5000] * 8}).status_code == 200
        shelf.released.set()
        assert hanging.result().status_code == 200


def test_a_model_that_hangs_while_it_wakes_keeps_no_other(shelf: Shelf) -> None:
    shelf.released.set()
    specs = ModelSpec(path="/1", name="m"), ModelSpec(path="/slow", name="n", idle_seconds=0.2)
    with serve(shelf, *specs, load_seconds=3.0) as server, client(server) as http:
        until = time.monotonic() + SECONDS
        while "fletcher_models_awake 1.0" not in http.get("/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.05)
        shelf.released.clear()
        with ThreadPoolExecutor(30) as pool:
            body = {"model": "n", "input": "ab"}
            url = f"{server.addresses.http}/v1/embeddings"
            waking = [pool.submit(httpx.post, url, json=body, timeout=SECONDS) for _ in range(30)]
            wait_for_thread("fletcher-wake")
            time.sleep(0.2)
            assert sum(thread.name == "fletcher-load" for thread in threading.enumerate()) == 1
            begun = time.monotonic()
            assert embed(http, "m", 20) == {200}
            assert http.post("/tokenize", json={"inputs": ["a b" * 5000] * 8, "model": "m"}).status_code == 200
            assert http.get("/ready").status_code == 200
            assert time.monotonic() - begun < 2
            assert {each.result().status_code for each in waking} == {504}
        shelf.released.set()


def test_a_folder_that_does_not_answer_lowers_readiness_and_holds_nothing_else(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "FILES_SECONDS", 0.2)
    monkeypatch.setattr(readiness, "LATE_SECONDS", 1.0)
    monkeypatch.setattr(service, "CHECK_SECONDS", 0.5)
    answers = threading.Event()

    def changed_files() -> str:
        answers.wait()
        return ""

    with serve(shelf, ModelSpec(path="/1", name="m"), ModelSpec(path="/2", name="n")) as server, client(server) as http:
        monkeypatch.setattr(shelf.encoders[0], "changed_files", changed_files)

        def wait_for_status(status: int) -> str:
            until = time.monotonic() + SECONDS
            while (answer := http.get("/ready")).status_code != status:
                assert time.monotonic() < until
                time.sleep(0.02)
            return answer.text

        assert "a check of a model does not end" in wait_for_status(503)
        time.sleep(0.6)
        assert "m: the artifact's folder does not answer" in wait_for_status(503)
        begun = time.monotonic()
        assert {http.get("/ready").status_code for _ in range(40)} == {503}
        assert sum(thread.name == "fletcher-ready" for thread in threading.enumerate()) <= 2  # that, and one that ends
        assert embed(http, "m", 5) | embed(http, "n", 5) == {200}
        assert http.post("/tokenize", json={"inputs": ["a b" * 5000] * 8, "model": "n"}).status_code == 200
        assert time.monotonic() - begun < 2
        answers.set()
        wait_for_status(200)
        answers.clear()
        wait_for_status(503)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5  # a check that hangs does not delay the stop
    answers.set()


def test_hung_loads_have_a_bound(shelf: Shelf) -> None:
    with serve(shelf, ModelSpec(path="/1", name="m"), load_seconds=0.1) as server, client(server) as http:
        statuses = [http.post("/admin/models", json={"path": "slow", "name": "n"}).status_code for _ in range(6)]
        assert statuses == [504] * 4 + [503] * 2
        assert embed(http, "m", 5) == {200}
        shelf.released.set()


# The command ----------------------------------------------------------------------------------------------------------


#: `sitecustomize.py` of the server's processes: files of a folder `hung` never open, as on a network file system that does
#: not answer.
HANG = """
import os, time

opened = os.open

def hang(path, *arguments, **named):
    if isinstance(path, (str, os.PathLike)) and os.path.basename(os.path.dirname(path)) == "hung":
        time.sleep(3600)
    return opened(path, *arguments, **named)

os.open = hang
"""


@contextmanager
def command(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a server for which the files of `hung` never open.

    Args:
        folder: folder for the code that does this.
        words: arguments.
    """
    (folder / "sitecustomize.py").write_text(HANG, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    program = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "--json"]
    running = subprocess.Popen(
        [*program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def options(fronts: int, *others: str) -> list[str]:
    fixed = ["--http", "127.0.0.1:0", "--flight", "off", "--provider", "mlas", "--drain-seconds", "1"]
    return [*fixed, "--fronts", str(fronts), "--admin", "on", "--models-root", "/", *others]


@pytest.fixture
def hung(tmp_path: Path) -> Path:
    """Return an artifact's folder whose files never open."""
    (tmp_path / "hung").mkdir()
    return tmp_path / "hung"


@pytest.mark.parametrize("fronts", FRONTS)
@pytest.mark.parametrize("hangup", [False, True])
def test_sigterm_ends_a_server_whose_load_hangs(tiny_artifact: Path, hung: Path, fronts: int, hangup: bool) -> None:
    with command(hung.parent, "run", str(tiny_artifact), "--name", "tiny", *options(fronts)) as running:
        assert running.stdout is not None
        url = json.loads(running.stdout.readline())["http"]
        with ThreadPoolExecutor(1) as pool:
            change = {"path": str(hung), "name": "n"}
            hanging = pool.submit(httpx.post, f"{url}/admin/models", json=change, timeout=SECONDS)
            until = time.monotonic() + SECONDS
            share = {"versions": [{"version": "1", "weight": 1}]}
            while True:
                time.sleep(0.5)  # so that the change that hangs is the first one
                if httpx.patch(f"{url}/admin/models/tiny", json=share, timeout=SECONDS).status_code == 409:
                    break
                assert time.monotonic() < until
            if hangup:
                running.send_signal(signal.SIGHUP)
                time.sleep(1.0)
            body = {"model": "tiny", "input": "a"}
            assert httpx.post(f"{url}/v1/embeddings", json=body, timeout=SECONDS).status_code == 200
            assert httpx.get(f"{url}/ready", timeout=SECONDS).status_code == 200
            begun = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(SECONDS) == 0
            assert time.monotonic() - begun < 1 + 1 + 1.0  # to drain, the margin, and the end of the process
            assert hanging.exception() is not None or hanging.result().status_code >= 500


@pytest.mark.parametrize("fronts", FRONTS)
def test_sigterm_ends_a_server_whose_first_load_hangs(hung: Path, fronts: int) -> None:
    with command(hung.parent, "run", str(hung), "--name", "n", *options(fronts)) as running:
        time.sleep(4.0)  # until the signal's handler is there
        assert running.poll() is None
        begun = time.monotonic()
        running.send_signal(signal.SIGTERM)
        running.wait(SECONDS)
        assert time.monotonic() - begun < 1 + 1 + 1.0


def test_the_first_load_has_a_deadline(hung: Path) -> None:
    with command(hung.parent, "run", str(hung), "--name", "n", *options(0, "--load-seconds", "1")) as running:
        _, log = running.communicate(timeout=SECONDS)
        assert running.returncode != 0
        assert "--load-seconds" in log
