"""Mixed load while processes are killed and held: no wrong vector, no unexplained failure, and nothing is left behind.

The test lasts a minute. `FLETCHER_SOAK_SECONDS=900 pytest -m slow -s tests/serve/fronts/soak` makes it a quarter of an hour.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from .clients import Clients
from .processes import Processes, run_server, wait_until
from .reference import Ledger, Reference

SOAK_SECONDS = float(os.environ.get("FLETCHER_SOAK_SECONDS", "60"))

#: Seconds of load before the first disturbance, after which descriptors and memory are the usual ones.
WARM_SECONDS = 8.0

#: Seconds within which a server is ready again. The machine of the tests is busy.
READY_SECONDS = 60.0

#: Seconds within which a front that hangs is killed: `Timing.hang`, or `Timing.front_start` if it was about to start.
HANG_SECONDS = 180.0

#: Descriptors and bytes that a process may hold in addition after the load: connections that close a moment later, and
#: memory of the allocator.
MORE_DESCRIPTORS, MORE_MEMORY = 12, 60 << 20

#: Tokens of the queue: a burst of `clients.BURST` requests has a hundred times as many.
QUEUE_TOKENS = 6000

#: Errors in the log that disturbances cause: message, and class of the error.
EXPECTED_ERRORS = {("a process ended", None), ("request failed", "FailingError"), ("request failed", "StoppingError")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="soak-") as path:
        yield Path(path)


class Disturber:
    """Disturbs the processes of a server, one at a time.

    Attributes:
        log: names of the disturbances, with the seconds until the server was ready.
    """

    def __init__(self, server: Processes, clients: Clients, artifacts: tuple[Path, Path]) -> None:
        self._server = server
        self._clients = clients
        self._artifacts = artifacts
        self.log: list[str] = []

    def kinds(self) -> list[Callable[[random.Random], None]]:
        """Return all disturbances."""
        return [
            self.kill_front,
            self.swap,
            self.burst,
            self.hold_front,
            self.hold_engine,
            self.reload,
            self.kill_engine,
            self.kill_all,
            self.hang_front,
        ]

    def kill_front(self, chance: random.Random) -> None:
        """Kill a front."""
        self._kill([chance.choice(self._server.children("front"))])

    def kill_engine(self, chance: random.Random) -> None:
        """Kill the engine process."""
        self._kill(self._server.children("engine"))

    def kill_all(self, chance: random.Random) -> None:
        """Kill the engine process and a front at the same time."""
        self._kill([*self._server.children("engine"), chance.choice(self._server.children("front"))])

    def hold_front(self, chance: random.Random) -> None:
        """Hold a front for some seconds, less than the time after which it counts as hanging. Nothing may fail."""
        self._hold(chance.choice(self._server.children("front")), 3.0)

    def hold_engine(self, chance: random.Random) -> None:
        """Hold the engine process for some seconds. Nothing may fail."""
        self._hold(self._server.children("engine")[0], 3.0)

    def hang_front(self, chance: random.Random) -> None:
        """Hold a front until the supervisor kills it."""
        front = chance.choice(self._server.children("front"))
        with self._clients.ledger.window():
            os.kill(front, signal.SIGSTOP)
            wait_until(lambda: front not in self._server.children("front"), HANG_SECONDS)
            self._wait_until_whole()

    def swap(self, chance: random.Random) -> None:
        """Exchange the model by a copy of it. Nothing may fail."""
        self._clients.swap(chance.choice(self._artifacts))

    def reload(self, chance: random.Random) -> None:
        """Let the server read its files again. Nothing may fail."""
        os.kill(self._server.supervisor.pid, signal.SIGHUP)

    def burst(self, chance: random.Random) -> None:
        """Send ten times what the queue takes. Requests may be refused, and no other may fail."""
        self._clients.burst(chance)

    def _kill(self, pids: list[int]) -> None:
        with self._clients.ledger.window():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            roles = ("engine", "front")
            wait_until(lambda: not any(pid in self._server.children(role) for pid in pids for role in roles))
            self._wait_until_whole()

    def _hold(self, pid: int, seconds: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def _wait_until_whole(self) -> None:
        """Wait until the server is ready, and both fronts are connected to the engine process."""
        seconds = wait_until(lambda: _ready(self._server.port) and _fronts(self._server.port) == 2, READY_SECONDS)
        self.log.append(f"ready after {seconds:.1f} s")
        time.sleep(1.0)  # what was open at that moment has failed by now


def _ready(port: int) -> bool:
    return _get(port, "/ready")[0] == 200


def _fronts(port: int) -> int:
    """Return the number of fronts that are connected to the engine process."""
    lines = _get(port, "/metrics")[1].splitlines()
    return next((int(float(line.split()[1])) for line in lines if line.startswith("fletcher_fronts ")), 0)


def _get(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a page; 0 if the connection ends."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.timeout(SOAK_SECONDS + 400)
def test_a_server_under_load_survives_its_processes(tiny_artifact: Path, folder: Path) -> None:
    copy = folder / "copy"
    shutil.copytree(tiny_artifact, copy)
    reference, ledger, stop = Reference(tiny_artifact), Ledger(), threading.Event()
    chance = random.Random(int(os.environ.get("FLETCHER_SOAK_SEED", "1")))
    with run_server(tiny_artifact, folder, "--fronts", "2", "--queue-tokens", str(QUEUE_TOKENS)) as server:
        clients = Clients(server.port, server.flight, reference, ledger, stop)
        disturber = Disturber(server, clients, (tiny_artifact, copy))
        works: list[Callable[[random.Random], None]] = [
            *(partial(clients.lists, size=size) for size in (1, 1, 1, 32, 256)),
            clients.ndjson,
            partial(clients.ndjson, slow=True),
            partial(clients.ndjson, slow=True),
            clients.streams,
            clients.streams,
            clients.leave,
            clients.never_read,
        ]
        with ThreadPoolExecutor(len(works)) as pool:
            running = [pool.submit(work, random.Random(number)) for number, work in enumerate(works)]
            try:
                time.sleep(WARM_SECONDS)
                before = server.held()
                end = time.monotonic() + SOAK_SECONDS
                while time.monotonic() < end:
                    for disturb in chance.sample(disturber.kinds(), len(disturber.kinds())):
                        if time.monotonic() < end:
                            disturber.log.append(f"{time.monotonic():.2f} {disturb.__name__}")
                            disturb(chance)
                            time.sleep(chance.uniform(0.5, 3.0))
            finally:
                stop.set()
                counts = {"requests": ledger.counts(), "disturbances": disturber.log}
                sys.stdout.write(json.dumps(counts, indent=1) + "\n")
            for work in running:
                work.result()
        time.sleep(3.0)
        after = server.held()
        server.supervisor.send_signal(signal.SIGTERM)
        assert server.supervisor.wait(READY_SECONDS) == 0
        orphans, errors = server.orphans(), server.errors()
    unexplained = ledger.unexplained()
    unexpected = [line for line in errors if (line["message"], line.get("error")) not in EXPECTED_ERRORS]
    report = {
        "unexpected_errors": unexpected[:5],
        "unexplained": [dataclasses.asdict(outcome) for outcome in unexplained[:20]],
        "windows": ledger.windows,
        "before": dataclasses.asdict(before),
        "after": dataclasses.asdict(after),
    }
    sys.stdout.write(json.dumps(report, indent=1, default=sorted) + "\n")
    assert not ledger.wrong, ledger.wrong[:10]
    assert not unexplained, unexplained[:10]
    assert sum(outcome.result == "ok" for outcome in ledger.outcomes) > 10 * SOAK_SECONDS
    assert after.descriptors.keys() == before.descriptors.keys()
    assert after.shared <= before.shared and after.files <= before.files
    for name, count in after.descriptors.items():
        assert count <= before.descriptors[name] + MORE_DESCRIPTORS, name
        assert after.memory[name] <= before.memory[name] + MORE_MEMORY, name
    assert not orphans
    assert not unexpected, unexpected[:2]
    assert not list(folder.glob("fletcher-*"))
