"""Loads of a server from client processes, with the CPU time of both sides and the check of sampled vectors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.serve.gpu_parts.engine import pool_path, reference_path
from benchmarks.serve.gpu_parts.flight_load import FlightSpec
from benchmarks.serve.gpu_parts.http_load import HttpSpec
from benchmarks.serve.gpu_parts.rows import Row
from benchmarks.serve.gpu_parts.stages import means, scrape, thread_seconds
from benchmarks.serve.running import Running, memory_mb, percentile, process_tree

ROOT = Path(__file__).parents[3]

#: Seconds that client processes may take to make their requests and to connect, and to end after the measurement.
START_SECONDS, END_SECONDS = 30.0, 25.0

#: Sampled answers of a row, over all client processes: of HTTP, and of Flight, whose answers are larger.
HTTP_SAMPLES, FLIGHT_SAMPLES = 256, 16

#: Smallest cosine of a sampled vector with the engine's.
MIN_COSINE = 0.99999

#: Share of a core from which a client process may be the limit of a load.
CLIENT_LIMIT = 0.85


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a row.

    Attributes:
        warm: seconds of load before the measurement.
        seconds: seconds of the measurement.
        clients: processes of an HTTP load. A Flight load has a process for each stream.
    """

    warm: float
    seconds: float
    clients: int


@contextmanager
def python(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a module of the benchmark as a child process, which is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.serve.gpu_parts.{module}", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line(process: subprocess.Popen[str], seconds: float) -> str:
    """Return the next line of a child's output.

    Raises:
        RuntimeError: the process ended, or did not answer in time.
    """
    assert process.stdout is not None
    timer = threading.Timer(max(seconds, 0.1), process.kill)
    timer.start()
    try:
        text = process.stdout.readline()
    finally:
        timer.cancel()
    if not text:
        raise RuntimeError(f"{' '.join(map(str, process.args[1:]))} ended, or gave no answer in {seconds:.0f} s")  # type: ignore[index]
    return text


def specs(server: Running, row: Row, timing: Timing, folder: Path) -> list[HttpSpec | FlightSpec]:
    """Return the work of each client process."""
    clients = row.connections if row.protocol == "flight" else min(timing.clients, row.connections)
    work: list[HttpSpec | FlightSpec] = []
    for client in range(clients):
        output = str(folder / f"client-{client}.npz")
        pool = str(pool_path(folder, row.pool))
        if row.protocol == "flight":
            samples = FLIGHT_SAMPLES // clients
            work.append(FlightSpec(server.flight, pool, row.texts, row.dtype, client, clients, samples, output))
        else:
            connections = len(range(client, row.connections, clients))
            samples = max(HTTP_SAMPLES // clients // row.texts, 4)
            work.append(
                HttpSpec(server.port, pool, row.texts, row.dtype, connections, client, clients, samples, output)
            )
    return work


def measure(server: Running, row: Row, timing: Timing, folder: Path) -> dict[str, Any]:
    """Run a row's load, and return its figures."""
    work = specs(server, row, timing, folder)
    children: list[subprocess.Popen[str]] = []
    contexts = []
    try:
        for spec in work:
            path = folder / f"client-{spec.client}.spec.json"
            path.write_text(json.dumps(asdict(spec)))
            context = python(f"{row.protocol}_load", str(path))
            contexts.append(context)
            children.append(context.__enter__())
        until = time.monotonic() + START_SECONDS
        for child in children:
            line(child, until - time.monotonic())
        begin = time.monotonic() + timing.warm
        end = begin + timing.seconds
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{begin} {end}\n")
            child.stdin.flush()
        time.sleep(max(begin - time.monotonic(), 0.0))
        pages = [scrape(server.http)]
        before = process_tree(server.process.pid)
        threads = {pid: thread_seconds(pid) for pid in before}
        time.sleep(max(end - time.monotonic(), 0.0))
        after = process_tree(server.process.pid)
        threads = {
            pid: {name: now - threads[pid].get(name, 0.0) for name, now in thread_seconds(pid).items()}
            for pid in after
            if pid in threads
        }
        pages.append(scrape(server.http))
        until = end + END_SECONDS
        results = [json.loads(line(child, until - time.monotonic())) for child in children]
    finally:
        for context in contexts:
            context.__exit__(None, None, None)
    errors: Counter[str] = Counter()
    for result in results:
        errors.update(result["errors"])
    arrays = [np.load(spec.output) for spec in work]
    milliseconds = np.concatenate([part["milliseconds"] for part in arrays]).tolist()
    processes = [
        {
            "cores": (use.cpu_seconds - (before[pid].cpu_seconds if pid in before else 0.0)) / timing.seconds,
            "pss_mb": memory_mb(pid),
            "threads": busiest(threads.get(pid, {}), timing.seconds),
            "command": use.command[-120:],
        }
        for pid, use in after.items()
    ]
    checks = [check(part, row, folder) for part in arrays]
    sampled = sum(count for count, _ in checks)
    return {
        "texts/s": sum(result["texts"] for result in results) / timing.seconds,
        "requests": sum(result["requests"] for result in results),
        "p50 ms": percentile(milliseconds, 0.5) if milliseconds else None,
        "p99 ms": percentile(milliseconds, 0.99) if milliseconds else None,
        "server_cores": sum(process["cores"] for process in processes),
        "server_processes": processes,
        "stages": means(*pages),
        "client_cores": sum(result["cpu_seconds"] for result in results) / timing.seconds,
        "busiest_client": max(result["cpu_seconds"] for result in results) / timing.seconds,
        "errors": dict(errors),
        "sampled": sampled,
        "min_cosine": min((cosine for count, cosine in checks if count), default=None),
    }


def busiest(threads: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return the cores of the eight threads that used most CPU time."""
    ordered = sorted(threads.items(), key=lambda thread: -thread[1])
    return {name: round(used / seconds, 3) for name, used in ordered[:8]}


def check(part: Mapping[str, Any], row: Row, folder: Path) -> tuple[int, float]:
    """Return the number of sampled vectors, and their smallest cosine with the engine's vectors of the same texts."""
    indices = part["indices"]
    if not len(indices):
        return 0, 1.0
    expected = np.load(reference_path(folder, row.pool, row.dtype), mmap_mode="r")[indices].astype(np.float64)
    vectors = part["vectors"].astype(np.float64)
    if vectors.shape != expected.shape:
        return len(indices), -1.0
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.sum(vectors * expected, 1) / norms
    return len(indices), float(np.nan_to_num(cosines, nan=-1.0).min())
