"""Ends of the command `run`: exit codes, signals, work that is left, and the probes of a load balancer meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

SECONDS = 60.0
FRONTS = [0, 2]
SIGNALS = [signal.SIGTERM, signal.SIGINT]

#: Texts whose batches take longer than a stop.
TEXTS = [f"{number} " + "many words " * 100 for number in range(2048)]


@contextmanager
def command(artifact: Path, fronts: int, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `fletcher-serve run`. Yield the process and the address of HTTP."""
    words = [
        sys.executable,
        "-c",
        "from fletcher.serve.commands.cli import main; main()",
        "--json",
        "run",
        str(artifact),
    ]
    words += [
        "--name",
        "tiny",
        "--fronts",
        str(fronts),
        "--http",
        "127.0.0.1:0",
        "--flight",
        "off",
        "--provider",
        "mlas",
    ]
    running = subprocess.Popen(
        [*words, "--cache", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert running.stdout is not None
        yield running, json.loads(running.stdout.readline())["http"]
    finally:
        running.kill()
        running.communicate()


def admitted(url: str) -> float:
    page = httpx.get(f"{url}/metrics", timeout=SECONDS).text
    return sum(
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("fletcher_admission_admitted_tot")
    )


@contextmanager
def under_way(url: str, count: int, texts: int = len(TEXTS)) -> Iterator[list[Future[httpx.Response]]]:
    """Keep large requests under way. Yield their answers when the engine has admitted them."""
    body = {"model": "tiny", "input": TEXTS[:texts]}
    with ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(httpx.post, f"{url}/v1/embeddings", json=body, timeout=SECONDS) for _ in range(count)]
        until = time.monotonic() + SECONDS
        while admitted(url) < 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        yield answers


@pytest.mark.parametrize("fronts", FRONTS)
@pytest.mark.parametrize("number", SIGNALS)
def test_work_that_is_left_when_the_time_to_drain_has_passed_ends_with_0(
    minilm_artifact: Path, fronts: int, number: signal.Signals
) -> None:
    # Short batches: one that ends while the interpreter ends would abort the process, in most runs. A long queue: on a slow
    # machine, requests that came before the signal would be refused with 429.
    options = ("--drain-seconds", "1", "--token-budget", "1024", "--queue-seconds", "600")
    with command(minilm_artifact, fronts, *options) as (running, url):
        with under_way(url, 6, texts=64) as answers:
            running.send_signal(number)
            _, log = running.communicate(timeout=SECONDS)
        assert running.returncode == 0, log
        assert "terminate called" not in log
        assert json.loads(log.splitlines()[-1])["all_answered"] is False, log
        for answer in answers:
            assert answer.exception() is not None or answer.result().status_code == 503


@pytest.mark.parametrize("fronts", FRONTS)
@pytest.mark.parametrize("number", SIGNALS)
def test_two_signals_5_ms_apart_are_one(tiny_artifact: Path, fronts: int, number: signal.Signals) -> None:
    with command(tiny_artifact, fronts, "--drain-seconds", "50") as (running, url):
        with under_way(url, 3) as answers:
            running.send_signal(number)
            time.sleep(0.005)
            running.send_signal(number)
            statuses = [answer.result().status_code for answer in answers]
        assert running.wait(SECONDS) == 0
    assert 200 in statuses and set(statuses) <= {200, 503}  # those that were not admitted yet are refused


@pytest.mark.parametrize("fronts", FRONTS)
def test_load_balancers_have_time_to_leave(tiny_artifact: Path, fronts: int) -> None:
    with command(tiny_artifact, fronts, "--lame-duck-seconds", "2") as (running, url):
        assert httpx.get(f"{url}/ready", timeout=SECONDS).status_code == 200
        running.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while (ready := httpx.get(f"{url}/ready", timeout=SECONDS)).status_code == 200:
            assert time.monotonic() - began < 1.5
            time.sleep(0.05)
        assert (ready.status_code, ready.json()) == (503, {"status": "not ready", "reason": "the server is stopping"})
        while time.monotonic() - began < 1.5:  # new connections and requests are answered meanwhile
            answer = httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": "a text"}, timeout=SECONDS)
            assert answer.status_code == 200
            assert httpx.get(f"{url}/health", timeout=SECONDS).status_code == 200
            assert httpx.get(f"{url}/ready", timeout=SECONDS).status_code == 503
        assert running.wait(SECONDS) == 0
        assert time.monotonic() - began >= 2.0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/ready", timeout=SECONDS)


@pytest.mark.parametrize("fronts", FRONTS)
def test_the_port_stays_open_while_requests_drain(tiny_artifact: Path, fronts: int) -> None:
    text = {"model": "tiny", "input": "a text"}
    seen: set[tuple[int, int]] = set()
    with command(tiny_artifact, fronts, "--drain-seconds", "50") as (running, url):
        with under_way(url, 48) as answers:  # seconds of work: fronts may take new requests for 0.3 s after the signal
            running.send_signal(signal.SIGTERM)
            while not all(answer.done() for answer in answers):
                try:  # each on a new connection
                    ready = httpx.get(f"{url}/ready", timeout=SECONDS).status_code
                    refused = httpx.post(f"{url}/v1/embeddings", json=text, timeout=SECONDS).status_code
                except httpx.TransportError:
                    break  # the port closes a moment before the last byte of the last answer
                if ready == 503:
                    seen.add((ready, refused))
            assert 200 in [answer.result().status_code for answer in answers]
        assert running.wait(SECONDS) == 0
    assert (503, 503) in seen
    assert seen <= {(503, 503), (503, 200)}  # a front may answer a request just after the engine announced the stop
