"""Floods on a real model, with one process and with fronts: single texts of another client are answered in five batches."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fletcher.runtime import Encoder
from fletcher.serve.access.keys_file import add_key

from .floods import FLOODS, Reference, Target, ask_single_texts, flooding, p99

SECONDS = 60.0

logger = logging.getLogger("tests.fairness")

TEXTS = [
    f"Document {number} is about the subject number {number % 97} and a few other things." for number in range(1024)
]


@pytest.fixture(scope="module")
def reference(minilm_artifact: Path) -> Reference:
    """The vectors of the encoder alone. `tests/convert` compares the encoder with HuggingFace."""
    with Encoder.load(minilm_artifact, provider="mlas") as encoder:
        return Reference(TEXTS, encoder.embed(TEXTS).vectors, 1e-6)


@contextmanager
def serving(artifact: Path, fronts: int, keys: Path) -> Iterator[tuple[str, str]]:
    """Serve the model with the command, in other processes than the clients; yield the addresses of HTTP and Flight."""
    command = [
        sys.executable,
        "-c",
        "from fletcher.serve.commands.cli import main; main()",
        "--json",
        "run",
        str(artifact),
    ]
    command += ["--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--fronts", str(fronts), "--drain-seconds", "5"]
    command += ["--name", "minilm", "--provider", "mlas", "--cache", "0", "--keys", str(keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        try:
            yield addresses["http"], addresses["flight"]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0


def batch_counts(http: str, key: str) -> tuple[float, float]:
    """Return the seconds of all batches so far, and their number; the key is one that may read metrics."""
    page = httpx.get(f"{http}/metrics", headers={"authorization": f"Bearer {key}"}).text
    found = {
        name: float(value)
        for name, value in re.findall(r"^fletcher_batch_duration_seconds_(sum|count) (\S+)", page, re.M)
    }
    return found["sum"], found["count"]


@pytest.mark.slow
@pytest.mark.parametrize("fronts", [0, 2])
@pytest.mark.parametrize("kind", FLOODS)
def test_single_texts_are_answered_during_a_flood(
    minilm_artifact: Path, reference: Reference, kind: str, fronts: int, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    pair, monitor = (add_key(keys, "ann"), add_key(keys, "bob")), add_key(keys, "monitor", "monitor")
    with serving(minilm_artifact, fronts, keys) as (http, flight):
        target = Target("minilm", http, flight, reference, pair)
        with flooding(kind, target, lambda flood: batch_counts(http, monitor)[1] >= 5):
            seconds_before, count_before = batch_counts(http, monitor)
            seconds = ask_single_texts(target, 100)
            seconds_after, count_after = batch_counts(http, monitor)
        batch = (seconds_after - seconds_before) / (count_after - count_before)
    logger.info("%s, %d fronts: p99 %.3f s, a batch %.3f s", kind, fronts, p99(seconds), batch)
    assert p99(seconds) <= 5 * batch, (sorted(seconds)[-5:], batch)
