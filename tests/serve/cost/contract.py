"""A server in its own process under a memory limit, and the cost of a request to it: memory, and stops of the event loop.

The stop is measured by a second connection that asks for `/health` all the time. On a machine with other work an answer can
be late without the server's fault, so the limit is `STOP_SECONDS` of the contract, 100 ms, times `SCALE`, and 20 times the
longest answer of an idle server.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

from .cases import Case

__all__ = ["Cost", "Served", "serve"]

#: Limit of the server's resident memory in bytes, which `--memory-limit` gets.
MEMORY_LIMIT: Final = 640 << 20

#: Longest stop of the event loop in seconds, and the factor for a machine with other work.
STOP_SECONDS: Final = 0.1
SCALE: Final = 5.0
IDLE_SCALE: Final = 20.0

#: Seconds after which a request is given up; its client leaves.
GIVE_UP: Final = 20.0

START: Final = "import sys; from fletcher.serve.commands.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a request.

    Attributes:
        status: HTTP status; 0 if the client gave up, -1 if the connection ended.
        peak: largest resident memory of the processes since their start, or since `Served.forget_peak`, in bytes.
        stop: longest time that `/health` took meanwhile and after it, in seconds.
        alive: whether all processes still run.
    """

    status: int
    peak: int
    stop: float
    alive: bool


class Served:
    """A server in its own process."""

    def __init__(self, process: subprocess.Popen[str], addresses: dict[str, str]) -> None:
        self._process = process
        host, _, port = addresses["http"].removeprefix("http://").rpartition(":")
        self.address = host, int(port)
        self.flight: str = addresses.get("flight") or ""
        self.document = json.loads(self._get("/openapi.json"))
        served = {model["output"]: model["id"] for model in json.loads(self._get("/v1/models"))["data"]}
        self.embedder, self.reranker = served["vectors"], served["scores"]
        idle = max(self._probe() for _ in range(50))
        #: Longest allowed stop in seconds on this machine.
        self.allowed = max(SCALE * STOP_SECONDS, IDLE_SCALE * idle)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(*self.address, timeout=GIVE_UP)
        connection.request("GET", path)
        body = connection.getresponse().read()
        connection.close()
        return body

    def _probe(self) -> float:
        started = time.perf_counter()
        try:
            self._get("/health")
        except (OSError, http.client.HTTPException):
            return GIVE_UP
        return time.perf_counter() - started

    def _processes(self) -> list[Any]:
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def forget_peak(self) -> None:
        """Set the kernel's record of the largest resident memory to the present memory."""
        for process in self._processes():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the largest resident memory (VmHWM) of any one process; with fronts, their sum is not judged."""
        peaks = [0]
        for process in self._processes():
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                continue
            peaks += [int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")]
        return max(peaks)

    def cost(self, send: Case | Callable[[], int]) -> Cost:
        """Send a request, and return its cost."""
        # The body is made before the probes begin: they would wait for this process, not for the server.
        call = partial(self.send, send, send.make()) if isinstance(send, Case) else send
        self.forget_peak()
        stops, done = [0.0], threading.Event()

        def probe() -> None:
            while not done.is_set():
                stops.append(self._probe())
                time.sleep(0.01)

        prober = threading.Thread(target=probe)
        prober.start()
        try:
            status = call()
        finally:
            done.set()
            prober.join()
        stops.append(self._probe())
        return Cost(status, self.peak(), max(stops), self.alive)

    def send(self, case: Case, body: bytes) -> int:
        """Send a request, read its answer piece by piece, and return its status."""
        connection = http.client.HTTPConnection(*self.address, timeout=GIVE_UP)
        try:
            connection.request("POST", case.path, body, {"content-type": case.media_type})
            answer = connection.getresponse()
            while answer.read(1 << 20):
                pass
        except TimeoutError:
            return 0
        except (OSError, http.client.HTTPException):
            return -1
        finally:
            connection.close()
        return answer.status


@contextmanager
def serve(
    artifacts: Sequence[Path], *options: str, memory_limit: int | None = MEMORY_LIMIT, group: Path | None = None
) -> Iterator[Served]:
    """Run a server under a memory limit.

    Args:
        artifacts: folders of its models.
        options: other options of the command.
        memory_limit: the option `--memory-limit` in bytes; None leaves it out.
        group: control group that the process enters; None leaves it where it is.
    """
    limit: tuple[str, ...] = () if memory_limit is None else ("--memory-limit", str(memory_limit))
    limit += ("--provider", "mlas", "--workers", "1", "--token-budget", "2048")
    command = [sys.executable, "-c", START, "--json", "run", *map(str, artifacts), *limit, *options]
    if group is not None:
        command = ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
    command += ["--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--drain-seconds", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield Served(process, json.loads(process.stdout.readline()))
        finally:
            process.kill() if "--fronts" not in options else process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
