"""Steady load with TLS, signed tokens, limits and exchanges: no request fails but the planned ones, and memory stays flat.

The test lasts a minute for each number of fronts. `FLETCHER_SOAK_SECONDS=3600 FLETCHER_SOAK_REPORT=DIR pytest -m slow -s
tests/serve/fronts/soak/test_steady.py` makes it an hour, and writes the course of memory as pages. Only a test of at least
`FLAT_SECONDS` compares memory: the heap of a process needs some minutes until it has its size.
"""

from __future__ import annotations

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

from tests.doubles.issuer import Issuer
from tests.serve.tls.conftest import Authority

from .clients import Clients, Door
from .course import Course
from .processes import Processes, run_server
from .reference import Ledger, Reference

SOAK_SECONDS = float(os.environ.get("FLETCHER_SOAK_SECONDS", "60"))
REPORT = os.environ.get("FLETCHER_SOAK_REPORT")

#: Share of the time that is warm-up, and of each of the two parts that are compared.
WARM, PART = 1 / 6, 1 / 6

#: Shortest test that compares memory, in seconds, and the largest growth of a process.
FLAT_SECONDS, GROWTH = 1800.0, 0.02

#: Seconds between two exchanges.
EXCHANGE_SECONDS = 10.0

#: Keys that the issuer publishes. A token must not be in use any more when its key is removed, also on a busy machine.
KEYS = 12

#: Message of a server that finds half of an exchange of its certificate.
HALF_AN_EXCHANGE = "the certificate was not exchanged: the one before goes on"

#: Requests a second of a client with the scope `slow`.
SLOW_RATE = 5


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="soak-") as path:
        yield Path(path)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


class Exchanges:
    """Exchanges of what a server has, one after the other. No request may fail because of them."""

    def __init__(self, server: Processes, clients: Clients, artifacts: tuple[Path, Path]) -> None:
        self._server = server
        self._clients = clients
        self._artifacts = artifacts

    def model(self, number: int) -> None:
        """Exchange the model."""
        self._clients.swap(self._artifacts[number % 2])

    def certificate(self, number: int, authority: Authority, folder: Path) -> None:
        """Exchange the certificate."""
        authority.server().write(folder)

    def issuer_keys(self, number: int, issuer: Issuer) -> None:
        """Publish a key, which signs later, and remove the oldest of some."""
        issuer.add(f"key-{number}")
        if len(issuer.keys) > KEYS:
            del issuer.keys[next(iter(issuer.keys))]

    def files(self, number: int) -> None:
        """Let the server read its files again."""
        os.kill(self._server.supervisor.pid, signal.SIGHUP)


def signing_key(issuer: Issuer) -> str:
    """Return the key that signs: the third newest, because the server reads a new key some time after its publication."""
    return list(issuer.keys)[-3:][0]


def limited(clients: Clients, chance: random.Random) -> None:
    """Send more than a limit allows: each answer is right, or a refusal with the time to wait."""
    assert clients.door is not None
    connection, number = clients.connect(), 0
    headers: dict[str, str] = {}
    while not clients.stop.wait(chance.random() * 0.2):
        if number % 50 == 0:
            headers = clients.headers("slow", "slow")
        number += 1
        began = time.monotonic()
        connection.request("POST", "/v1/embeddings", json.dumps({"model": "tiny", "input": "a"}), headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status == 429 and "rate_limit_exceeded" in data.decode() and answer.getheader("retry-after"):
            clients.ledger.note("limited", began, "limited")
        elif answer.status == 200:
            clients.ledger.note("limited", began, "ok")
        else:
            clients.ledger.fail(f"limited: {answer.status} {data[:200]!r}")
    connection.close()


def refused(clients: Clients, issuer: Issuer, chance: random.Random) -> None:
    """Send requests with tokens that are expired, of another audience or of an unknown key, and without a token."""
    tokens: tuple[Callable[[], str], ...] = (
        lambda: issuer.token(signing_key(issuer), exp=1, sub=str(chance.random())),
        lambda: issuer.token(signing_key(issuer), aud="another", sub=str(chance.random())),
        lambda: "nonsense",
    )
    while not clients.stop.wait(chance.random() * 2):
        began = time.monotonic()
        connection = clients.connect()
        headers = {"authorization": f"Bearer {chance.choice(tokens)()}"}
        connection.request("POST", "/v1/embeddings", json.dumps({"model": "tiny", "input": "a"}), headers)
        status = connection.getresponse().status
        connection.close()
        clients.ledger.note("refused", began, "refused")
        if status != 401:
            clients.ledger.fail(f"refused: {status}")


@pytest.mark.slow
@pytest.mark.timeout(SOAK_SECONDS + 400)
@pytest.mark.parametrize("fronts", ["0", "2"])
def test_memory_stays_flat_under_steady_load(tiny_artifact: Path, folder: Path, issuer: Issuer, fronts: str) -> None:
    samples = None if REPORT is None else Path(REPORT) / f"memory-{fronts}.json"
    copy = folder / "copy"
    shutil.copytree(tiny_artifact, copy)
    reference, ledger, stop, authority = Reference(tiny_artifact), Ledger(), threading.Event(), Authority()
    certificate, key = authority.server().write(folder / "tls")
    settings = issuer.write_settings(folder / "jwt.toml", more="refresh_seconds = 5")
    settings.write_text(
        settings.read_text() + f"[scopes.slow.limits.requests]\nsecond = {SLOW_RATE}\nburst = {SLOW_RATE}\n"
    )
    door = Door(
        authority.pem.decode(),
        lambda name, scope: issuer.token(signing_key(issuer), sub=name, scope=scope, exp=int(time.time()) + 120),
    )
    options: tuple[str, ...] = (
        "--fronts",
        fronts,
        "--tls-cert",
        str(certificate),
        "--tls-key",
        str(key),
        "--jwt",
        str(settings),
    )
    options += ("--limit", "requests=2000/s", "--limit", "in_flight=500", "--audit", str(folder / "audit.jsonl"))
    with run_server(tiny_artifact, folder, *options, "--audit-size", "16MiB", "--cache", "8MiB") as server:
        clients = Clients(server.port, server.flight, reference, ledger, stop, door, haste=0.7)
        course = Course(server, clients)
        exchanges = Exchanges(server, clients, (tiny_artifact, copy))
        works: list[Callable[[random.Random], None]] = [
            *(partial(clients.lists, size=size) for size in (1, 1, 1, 1, 2, 2, 4, 32)),
            lambda chance: Clients(server.port, server.flight, reference, ledger, stop, door, haste=0.1).ndjson(chance),
            lambda chance: Clients(server.port, server.flight, reference, ledger, stop, door, haste=0.2).streams(
                chance
            ),
            partial(limited, clients),
            partial(refused, clients, issuer),
            lambda _: course.record(min(10.0, SOAK_SECONDS / 60), stop, samples),
        ]
        kinds: tuple[Callable[[int], None], ...] = (
            exchanges.model,
            partial(exchanges.certificate, authority=authority, folder=folder / "tls"),
            partial(exchanges.issuer_keys, issuer=issuer),
            exchanges.files,
        )
        with ThreadPoolExecutor(len(works)) as pool:
            running = [pool.submit(work, random.Random(number)) for number, work in enumerate(works)]
            try:
                end, number = time.monotonic() + SOAK_SECONDS, 0
                while time.monotonic() < end and not any(work.done() for work in running):
                    time.sleep(min(EXCHANGE_SECONDS, SOAK_SECONDS / 20))
                    kinds[number % len(kinds)](number)
                    number += 1
            finally:
                stop.set()
            for work in running:
                work.result()
        server.supervisor.send_signal(signal.SIGTERM)
        assert server.supervisor.wait(60) == 0
        errors = server.errors()
    growth = course.growth(SOAK_SECONDS * WARM, SOAK_SECONDS * PART)
    counts = ledger.counts()
    report = {
        "fronts": fronts,
        "growth": growth,
        "requests": counts,
        "exchanges": number,
        "first": course.samples[0],
        "last": course.samples[-1],
        "errors": errors[:3],
        "wrong": ledger.wrong[:10],
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if samples is not None:
        course.write(samples.with_suffix(".html"), fronts, growth)
    assert not ledger.wrong, ledger.wrong[:10]
    failed = [outcome for outcome in ledger.outcomes if outcome.result not in ("ok", "limited", "refused")]
    assert not failed, failed[:10]
    # The files of a certificate are written one after the other, so the server may see half of an exchange, and refuses it.
    unexpected = [line for line in errors if line["message"] != HALF_AN_EXCHANGE]
    assert not unexpected, unexpected[:3]
    assert (
        counts["limited limited"] > 0
        and counts["refused refused"] > 0
        and counts["limited ok"] <= SLOW_RATE * (SOAK_SECONDS + 60)
    )
    if SOAK_SECONDS >= FLAT_SECONDS:
        assert max(growth.values()) <= GROWTH, growth
