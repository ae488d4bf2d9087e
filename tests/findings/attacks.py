"""Attacks of the review on a running server: raw bytes and commands alone, so that they also run against an older version.

    python -m tests.findings.attacks [--root CHECKOUT] [--only NAME]

It starts servers of the checkout with its tests' encoder, attacks them, and prints what happened as JSON: for each attack
whether it succeeded, and what was seen. `--root` is the checkout of the version, by default this one; the environment must
have what both versions need.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]
import pyarrow as pa

__all__ = ["ATTACKS", "Found", "attack"]

#: Seconds for which an attack waits for an answer.
SECONDS: Final = 25.0

#: Seconds without an answer of `/health` from which the loop counts as stopped; a busy machine is late, too.
STOP: Final = 3.0

#: Bytes of growth from which a request counts as one that takes the server's memory.
GROWTH: Final = 300 << 20

#: Program of a server: the tests' encoder, whose vectors take no time, with the options of either version.
SERVE: Final = """
import json, signal, sys, threading
sys.path[:0] = [sys.argv[1] + "/src", sys.argv[1]]
from tests.serve.fake_encoder import FakeEncoder
from fletcher.serve.server import Server
options = json.loads(sys.argv[2])
try:
    from fletcher.serve.server_options import ServerOptions
    server = Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off", **options))
    reload = server.reload_files
except ModuleNotFoundError:
    from fletcher.serve.keys import Keys
    from pathlib import Path
    keys = Keys(Path(options["keys"])) if options else None
    server = Server(FakeEncoder(), http="127.0.0.1:0", flight=None, keys=keys)
    reload = lambda: keys.reload()
def reread(*_):
    try:
        reload()
    except Exception as error:
        print(error, file=sys.stderr)  # as the command does
signal.signal(signal.SIGHUP, reread)
with server:
    print(json.dumps(str(server.addresses.http)), flush=True)
    threading.Event().wait()
"""

COMMAND: Final = "import sys; from fletcher.serve.{}cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Found:
    """Result of an attack.

    Attributes:
        succeeded: whether the attack did what it was meant to do.
        seen: what happened, in a few words.
    """

    succeeded: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Served:
    """A server of a version, in a process."""

    host: str
    port: int
    process: psutil.Process

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        resident: int = self.process.memory_info().rss
        return resident

    def connect(self) -> socket.socket:
        """Return a connection."""
        return socket.create_connection((self.host, self.port), timeout=SECONDS)

    def ask(
        self, method: str, path: str, body: bytes = b"", *, host: str | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own; return the status, 0 without an answer, and all bytes."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {host or f'{self.host}:{self.port}'}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode()
        received = bytearray()
        try:
            with self.connect() as connection:
                connection.sendall(head + body)
                while part := connection.recv(1 << 20):
                    received += part
        except OSError:
            pass
        first = bytes(received[:12]).split(b" ")
        return (int(first[1]) if len(first) > 1 and first[1].isdigit() else 0), bytes(received)


@contextmanager
def serving(root: Path, **options: object) -> Iterator[Served]:
    """Serve, and end the server."""
    words = [sys.executable, "-c", SERVE, str(root), json.dumps(options)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env=environment
    ) as process:
        try:
            assert process.stdout is not None
            host, _, port = json.loads(process.stdout.readline()).removeprefix("http://").rpartition(":")
            yield Served(host, int(port), psutil.Process(process.pid))
        finally:
            process.kill()


def longest_stop(served: Served, work: Callable[[], object]) -> float:
    """Return the longest time that `/health` took while something is done, and until it answers again, at most `SECONDS`."""
    ended, times = threading.Event(), [0.0]

    def watch() -> None:
        while not ended.is_set():
            begun = time.monotonic()
            status, _ = served.ask("GET", "/health")
            times.append(time.monotonic() - begun if status else SECONDS)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    time.sleep(0.2)
    work()
    time.sleep(0.3)
    ended.set()
    thread.join()
    return max(times)


def growth(served: Served, work: Callable[[], object]) -> int:
    """Return how much the resident memory grows at most while something is done."""
    before, most, ended = served.memory, [0], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            try:
                most[0] = max(most[0], served.memory - before)
            except psutil.NoSuchProcess:
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    ended.set()
    thread.join()
    return most[0]


# Requests that cost too much ------------------------------------------------------------------------------------------


def cbor_fraction(root: Path) -> Found:
    """C1: a decimal fraction of a large number stops the event loop."""
    size = 400_000
    body = b"\xc4\x82\x3a\x00\x05\x00\x00\xc2\x5a" + size.to_bytes(4, "big") + b"\xff" * size
    with serving(root) as served:
        stop = longest_stop(served, lambda: served.ask("POST", "/encode", body, content_type="application/cbor"))
    return Found(stop > STOP, f"/health waited {stop:.1f} s for a body of {len(body):,} bytes")


def compressed_arrow(root: Path) -> Found:
    """C2: compressed buffers of Arrow become gigabytes."""
    sink = io.BytesIO()
    batch = pa.RecordBatch.from_arrays([pa.array(["a" * (512 << 20)], pa.large_string())], ["text"])
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    body, media_type = sink.getvalue(), "application/vnd.apache.arrow.stream"
    results: list[tuple[int, bytes]] = []
    with serving(root) as served:
        grown = growth(
            served, lambda: results.append(served.ask("POST", "/encode/arrow", body, content_type=media_type))
        )
    return Found(grown > GROWTH, f"{results[0][0]}, {grown >> 20} MiB for a body of {len(body):,} bytes")


def unread_pipeline(root: Path) -> Found:
    """H1: requests of one connection whose answers are not read."""

    def send(served: Served) -> None:
        requests = f"GET /health HTTP/1.1\r\nhost: {served.host}:{served.port}\r\n\r\n".encode() * 5000
        with served.connect() as connection:
            connection.settimeout(SECONDS)
            try:
                for _ in range(100):  # 20 MB
                    connection.sendall(requests)
            except OSError:
                pass

    with serving(root) as served:
        grown = growth(served, lambda: send(served))
    return Found(grown > GROWTH, f"{grown >> 20} MiB for one connection")


def large_head(root: Path) -> Found:
    """H1: one header of 64 MiB."""
    statuses: list[int] = []
    with serving(root) as served:
        grown = growth(served, lambda: statuses.append(served.ask("GET", "/health", x_large="a" * (64 << 20))[0]))
    taken = statuses[0] in (200, 401) or grown > 48 << 20
    return Found(taken, f"{statuses[0] or 'no answer'}, {grown >> 20} MiB")


def slow_second_head(root: Path) -> Found:
    """H1: a head that never ends, after a good request."""
    with serving(root) as served, served.connect() as connection:
        connection.sendall(
            f"GET /health HTTP/1.1\r\nhost: {served.host}:{served.port}\r\n\r\nGET / HTTP/1.1\r\n".encode()
        )
        connection.settimeout(0.5)
        until, left = time.monotonic() + 36, 0
        while time.monotonic() < until:
            try:
                connection.sendall(b"x: y\r\n")
                if not connection.recv(1 << 16):
                    break
            except TimeoutError:
                pass
            except OSError:
                break
            left += 1
            time.sleep(0.5)
        else:
            return Found(True, "the connection was open after 36 s")
    return Found(False, "the connection was closed")


# Without keys ---------------------------------------------------------------------------------------------------------


def foreign_page(root: Path) -> Found:
    """H6: a page of another site lets the browser send a request."""
    body = json.dumps({"model": "fake-model", "input": "a"}).encode()
    with serving(root) as served:
        status, _ = served.ask("POST", "/v1/embeddings", body, content_type="text/plain", origin="https://evil.example")
    return Found(status == 200, f"{status} for the Origin of another site")


def rebound_name(root: Path) -> Found:
    """H6: a name of a page that leads to the loopback."""
    with serving(root) as served:
        statuses = [served.ask("GET", path, host="evil.example")[0] for path in ("/metrics", "/v1/models")]
    return Found(200 in statuses, f"{statuses} for the Host of another site")


def forwarded_admin(root: Path) -> Found:
    """H6: a proxy on the same machine passes on a stranger's request to the admin API."""
    with serving(root) as served:
        status, _ = served.ask("GET", "/admin/models", x_forwarded_for="203.0.113.7")
    return Found(status == 200, f"{status} for a request that was passed on")


# Keys -----------------------------------------------------------------------------------------------------------------


def _command(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    inner = "commands." if (root / "serve" / "commands").is_dir() else ""
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(inner), *words],
        env=environment,
        cwd="/",
        capture_output=True,
        check=False,
        timeout=300,
    )


def lost_keys(root: Path) -> Found:
    """M4: additions at the same time lose keys."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(12) as pool:
        file = Path(folder) / "keys.json"

        def add(number: int) -> int:
            return _command(root, "keys", "add", f"key{number}", "--keys", str(file)).returncode

        added = [*pool.map(add, range(12))].count(0)
        kept = len(json.loads(file.read_bytes())["keys"])
    return Found(kept < added, f"{added} added, {kept} in the file")


def last_key(root: Path) -> Found:
    """M4: the last key cannot be revoked."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.json"
        key = _command(root, "keys", "add", "ann", "--keys", str(file)).stdout.decode().split()[-1]
        with serving(root, keys=str(file)) as served:
            body = json.dumps({"model": "fake-model", "input": "a"}).encode()
            before, _ = served.ask("POST", "/v1/embeddings", body, authorization=f"Bearer {key}")
            _command(root, "keys", "remove", "ann", "--keys", str(file))
            served.process.send_signal(signal.SIGHUP)
            time.sleep(2.0)
            after, _ = served.ask("POST", "/v1/embeddings", body, authorization=f"Bearer {key}")
    return Found(before == after == 200, f"{before} before the removal, {after} after it")


def metrics_of_others(root: Path) -> Found:
    """M3: a user's key reads the counts of all clients."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.json"
        key = _command(root, "keys", "add", "bob", "--keys", str(file)).stdout.decode().split()[-1]
        with serving(root, keys=str(file)) as served:
            status, _ = served.ask("GET", "/metrics", authorization=f"Bearer {key}")
    return Found(status == 200, f"{status} for /metrics with a user's key")


# Low ------------------------------------------------------------------------------------------------------------------


def echoed_name(root: Path) -> Found:
    """An error repeats a name of megabytes."""
    body = json.dumps({"model": "m" * (8 << 20), "input": "a"}).encode()
    with serving(root) as served:
        status, answer = served.ask("POST", "/v1/embeddings", body)
    return Found(len(answer) > 1 << 20, f"{status}, {len(answer):,} bytes")


def no_host(root: Path) -> Found:
    """HTTP/1.1 without a Host is answered."""
    with serving(root) as served, served.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n")
        answer = connection.recv(1 << 16)
    return Found(b" 200 " in answer[:20], answer[:40].decode("latin-1").splitlines()[0] if answer else "closed")


def no_sniffing(root: Path) -> Found:
    """Answers lack the headers that keep browsers from guessing and from keeping them."""
    with serving(root) as served:
        _, answer = served.ask("GET", "/v1/models")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    there = [name.decode() for name in (b"nosniff", b"no-store") if name in head]
    return Found(len(there) < 2, " and ".join(there) or "neither of the headers")


#: The attacks by the names in `findings.toml`.
ATTACKS: Final[dict[str, Callable[[Path], Found]]] = {
    each.__name__: each
    for each in (
        cbor_fraction,
        compressed_arrow,
        unread_pipeline,
        large_head,
        slow_second_head,
        foreign_page,
        rebound_name,
        forwarded_admin,
        lost_keys,
        last_key,
        metrics_of_others,
        echoed_name,
        no_host,
        no_sniffing,
    )
}


def attack(name: str, root: Path) -> Found:
    """Run an attack against the version in a checkout."""
    return ATTACKS[name](root)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--only", choices=ATTACKS, action="append")
    given = parser.parse_args()
    for name in given.only or ATTACKS:
        try:
            found = attack(name, given.root.resolve())
            line = {"attack": name, "succeeded": found.succeeded, "seen": found.seen}
        except Exception as error:  # noqa: BLE001 (the others are tried, too)
            line = {"attack": name, "error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
