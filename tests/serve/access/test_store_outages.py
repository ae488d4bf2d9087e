"""A real Redis or Valkey that is killed or stopped under load: what docs/howto/limits.md says of it holds."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.access.limits.quota import read_quota
from fletcher.serve.access.limits.redis_ledger import ALONE_SECONDS, CALL_SECONDS
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Seconds that a busy machine may take on top of what the document says.
SLACK = 3.0

THREADS = 4
BURST = 3


@dataclass
class Store:
    """A server of limits that the test starts, ends, and starts again on the same port."""

    program: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        words = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        for attempt in itertools.count():
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert attempt < 400, "the store did not start"
                time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()


@pytest.fixture(params=["redis-server", "valkey-server"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        store = Store(program, free.getsockname()[1])
    store.start()
    yield store
    store.send(signal.SIGKILL)


@contextmanager
def serving(options: ServerOptions, artifact: Path | None) -> Iterator[str]:
    """Serve in one process, or an artifact with two fronts; yield the address."""
    if artifact is None:
        with Server(FakeEncoder(), options) as server:
            yield str(server.addresses.http)
    else:
        with Supervisor([ModelSpec(path=str(artifact), name="fake-model", provider="mlas")], options) as server:
            yield str(server.addresses.http)


@dataclass
class Load:
    """Threads that send requests of one client until the end, and what they got: time, seconds and status of each."""

    url: str
    key: str
    answers: list[tuple[float, float, int, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self._send) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()
        return self

    def _send(self) -> None:
        with client(self.url, self.key) as http:
            while not self.ended.is_set():
                begun = time.monotonic()
                answer = ask(http)
                code = answer.json()["error"]["code"] if answer.status_code != 200 else ""
                self.answers.append((begun, time.monotonic() - begun, answer.status_code, code))
                time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()

    def kinds(self, since: float, until: float = float("inf")) -> Counter[tuple[int, str]]:
        """Return the statuses and codes of the requests between two times, and how many got each."""
        return Counter(
            (status, code)
            for begun, seconds, status, code in self.answers
            if since <= begun and begun + seconds < until
        )

    def first_success(self, since: float) -> float:
        """Return the time of the first request after a time that was answered."""
        return min(begun for begun, _, status, _ in self.answers if begun >= since and status == 200)


def client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def ask(http: httpx.Client) -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": "fake-model", "input": "ab"})


def statuses(url: str, key: str, count: int) -> list[int]:
    with client(url, key) as http:
        return [ask(http).status_code for _ in range(count)]


@pytest.mark.parametrize("fronts", [0, 2])
@pytest.mark.parametrize("rule", ["alone", "refuse"])
@pytest.mark.parametrize("outage", [signal.SIGKILL, signal.SIGSTOP])
def test_a_store_that_fails_under_load(
    store: Store, fronts: int, rule: str, outage: signal.Signals, tmp_path: Path, tiny_artifact: Path
) -> None:
    file = tmp_path / "keys.json"
    ann = add_key(file, "ann", limits=read_quota(["requests=1000000/s"]))
    bob = add_key(file, "bob")
    few = [f"requests=0.0001/s:{BURST}"]
    tim, tom, sam = (add_key(file, name, limits=read_quota(few)) for name in ("tim", "tom", "sam"))
    options = ServerOptions(
        http="127.0.0.1:0",
        flight="off",
        keys=str(file),
        drain_seconds=5,
        fronts=fronts,
        limit_store=store.url,
        limit_store_down=rule,  # type: ignore[arg-type]
    )
    with (
        serving(options, tiny_artifact if fronts else None) as url,
        Load(url, ann) as limited,
        Load(url, bob) as free,
    ):
        assert statuses(url, tim, BURST + 1) == [200] * BURST + [429]
        time.sleep(0.5)
        begun = time.monotonic()
        store.send(outage)
        # Every process notices it by a call of its own, within the time of a call.
        time.sleep(CALL_SECONDS + SLACK)
        noticed = time.monotonic()
        # The server, with all its processes, counts alone: each client gets its limit once more.
        during = statuses(url, tom, BURST + 1)
        assert during == ([200] * BURST + [429] if rule == "alone" else [503] * (BURST + 1))
        time.sleep(1.0)
        back = time.monotonic()
        if outage == signal.SIGKILL:
            store.start()
        else:
            store.send(signal.SIGCONT)
        time.sleep(ALONE_SECONDS + CALL_SECONDS + SLACK)
        again = time.monotonic()
        assert statuses(url, sam, BURST + 1) == [200] * BURST + [429]
        # A store that was stopped has kept its counts; one that was killed has none.
        assert statuses(url, tim, 1) == [429 if outage == signal.SIGSTOP else 200]
        time.sleep(0.5)
    refused = (503, "limits_unavailable")
    assert limited.kinds(0, begun) == {(200, ""): limited.kinds(0, begun).total()}
    assert limited.kinds(noticed, back).keys() == ({(200, "")} if rule == "alone" else {refused})
    assert limited.kinds(begun, again).keys() <= {(200, ""), refused}
    # It counts again in time. On a busy machine a single later call may be too slow once more.
    assert limited.first_success(back) < back + ALONE_SECONDS + CALL_SECONDS + SLACK
    assert free.kinds(0).keys() == {(200, "")}
    for load in (limited, free):
        assert max(seconds for _, seconds, _, _ in load.answers) < CALL_SECONDS + SLACK
