"""Jobs that are killed, or whose network is cut, many times. At the end, Longbow has exactly the rows of the input.

FLETCHER_LONGBOW=grpc://host:3000 pytest tests/serve/longbow/test_kills_and_cuts.py    uses a real server's dataset "docs"
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fletcher.serve.longbow.wire.connection import Condition, Connection
from fletcher.serve.longbow.wire.presence import wait_until_quiet
from fletcher.serve.longbow.wire.target import Target

from ...doubles.cutting_proxy import CuttingProxy
from .conftest import RunJob
from .unit_encoder import UnitEncoder

ROOT = Path(__file__).parents[3]

#: Seed of the times of kills and cuts. FLETCHER_SEED sets another one.
SEED = int(os.environ.get("FLETCHER_SEED", "8"))


def _moments() -> random.Random:
    sys.stdout.write(f"FLETCHER_SEED={SEED}\n")  # pytest shows it if a test fails
    return random.Random(SEED)


def _texts_in(url: str) -> Counter[str]:
    """Return the texts of the dataset, and the number of rows of each."""
    counts: Counter[str] = Counter()
    with Connection(Target(url)) as connection:
        for batch in connection.rows("docs", [Condition("id", ">=", "0")], ["text"]):
            counts.update(batch.column("text").to_pylist())
    return counts


def _check(url: str, texts: list[str], doubled: int) -> None:
    """Assert that Longbow has every text once, and `doubled` rows more, which the job reports."""
    counts = _texts_in(url)
    assert set(counts) == set(texts)
    assert counts.total() == len(texts) + doubled


@pytest.fixture
def url(longbow_url: str) -> Iterator[str]:
    for moment in ("before", "after"):
        with Connection(Target(longbow_url)) as connection:
            connection.delete_dataset("docs")
            wait_until_quiet(connection, "docs", 120.0)  # Longbow would index batches that wait into the next "docs"
        if moment == "before":
            yield longbow_url


def _kill_and_resume(url: str, folder: Path, kills: int, rows: int) -> None:
    rng = _moments()
    texts = [f"document {number} of the lot" for number in range(rows)]
    source = folder / "input.txt"
    source.write_text("\n".join(texts) + "\n")
    command = [sys.executable, "-m", "tests.serve.longbow.child", str(source), url, str(folder / "journal")]
    killed = 0
    arrived: list[int] = []
    # On a busy machine, the first jobs may be killed before they send a row. Then up to 10 more jobs are killed.
    while killed < kills or (killed < kills + 10 and arrived[-1] == arrived[0]):
        with subprocess.Popen(
            [*command, "0.006"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as job:
            assert job.stdout is not None
            assert job.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 0.25))
            ended = job.poll() is not None
            job.kill()
            job.wait()
        assert not ended, "the job ended before it could be killed: use more rows"
        killed += 1
        arrived.append(_texts_in(url).total())
    assert arrived == sorted(arrived)
    assert arrived[-1] > arrived[0]  # each job continues the one before
    assert arrived[-1] < rows
    done = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.removeprefix("ready\n"))
    assert summary["sent"] + summary["known"] == rows
    assert summary["missing"] == summary["surplus"] == 0
    _check(url, texts, summary["doubled"])


def _cut_and_go_on(url: str, run: RunJob, cuts: int, rows: int) -> None:
    rng = _moments()
    texts = [f"document {number} of the lot" for number in range(rows)]
    over = threading.Event()
    with CuttingProxy(int(url.rpartition(":")[2])) as proxy:
        done = 0

        def disturb() -> None:
            nonlocal done
            while done < cuts and not over.wait(rng.uniform(0.01, 0.2)):
                before = proxy.cuts
                proxy.cut(rng.choice([0.0, 0.05]))
                done += proxy.cuts > before

        cutter = threading.Thread(target=disturb)
        cutter.start()
        try:
            encoder = UnitEncoder(delay=0.01)
            summary = run(texts, encoder, url=f"grpc://127.0.0.1:{proxy.port}", chunk_texts=16, patience=60.0)
        finally:
            over.set()
            cutter.join()
        assert done == cuts, "the job ended before its network could be cut: use more rows"
    assert summary.sent == rows
    assert summary.missing == summary.surplus == 0
    assert summary.index_len == rows + summary.doubled
    _check(url, texts, summary.doubled)


def test_three_kills(url: str, tmp_path: Path) -> None:
    _kill_and_resume(url, tmp_path, 3, 2000)


def test_three_cuts(url: str, run: RunJob) -> None:
    _cut_and_go_on(url, run, 3, 800)


@pytest.mark.slow
def test_fifty_kills(url: str, tmp_path: Path) -> None:
    _kill_and_resume(url, tmp_path, 50, 60_000)


@pytest.mark.slow
def test_fifty_cuts(url: str, run: RunJob) -> None:
    _cut_and_go_on(url, run, 50, 10_000)
