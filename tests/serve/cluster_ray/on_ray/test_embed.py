"""`fletcher-serve cluster embed` on a real cluster of one machine: rows, resume, kills, and problems before the work."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray")

import psutil  # type: ignore[import-untyped]

from fletcher.serve.longbow.wire.connection import Connection
from fletcher.serve.longbow.wire.target import Target

from ....doubles.longbow import LongbowDouble
from .command import free_ports, run_command, started
from .jobs import OPTIONS, PART, ROWS, check_output, engines, finished, result_of, wait_until, write_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

LOCAL = ["--address", "local", "--engines", "1", *OPTIONS]

#: Variable of the processes of these tests' clusters, which all their processes inherit.
MARK = "FLETCHER_TEST_CLUSTER"


@pytest.fixture(autouse=True, scope="module")
def mark() -> Iterator[str]:
    """Mark the processes of the clusters of this file."""
    os.environ[MARK] = secrets.token_hex(8)
    yield os.environ[MARK]
    del os.environ[MARK]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(str(tmp_path / "in"))
    return tmp_path / "in"


def test_killed_engines_and_jobs_lose_and_double_nothing(
    tiny_artifact: Path, tiny_vectors: Any, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    journal = str(out / "_fletcher")
    words = ["cluster", "embed", str(tiny_artifact), str(source), str(out), *LOCAL]
    with started(words, tmp_path) as command:
        for kill in range(2):
            least = 4 * kill + 3
            wait_until(lambda: len(finished(journal)) >= least and engines(command), command)  # noqa: B023  (at once)
            engines(command)[0].send_signal(signal.SIGKILL)
        wait_until(lambda: len(finished(journal)) >= 12, command)
        tree = psutil.Process(command.process.pid).children(recursive=True)
        command.process.kill()
        command.process.wait()
    psutil.wait_procs(tree, timeout=30)  # the cluster ends with the process that started it
    before = len(finished(journal))
    assert 12 <= before < ROWS // PART
    done = run_command(*words, folder=tmp_path, seconds=400)
    assert done.returncode == 0, done.stderr
    result = result_of(done.stdout)
    assert (result["rows"], result["parts"], result["resumed_rows"]) == (ROWS, ROWS // PART, before * PART)
    assert sum(result["rows_by_node"].values()) == ROWS
    assert 0 < result["memory"] < 2**30
    check_output(str(out), tiny_vectors)
    again = run_command(*words, folder=tmp_path)
    assert result_of(again.stdout)["written_rows"] == 0
    other = run_command(*words, "--dtype", "float16", folder=tmp_path)
    assert other.returncode == 1
    assert "is the journal of another job" in other.stderr


def test_longbow_has_every_row_once_after_a_killed_engine_and_a_killed_job(
    tiny_artifact: Path, source: Path, tmp_path: Path
) -> None:
    with LongbowDouble() as double:
        words = ["cluster", "embed", str(tiny_artifact), str(source), f"{double.url}/docs", *LOCAL]
        with started(words, tmp_path) as command:
            journal = str(tmp_path / "docs.parts")
            wait_until(lambda: len(finished(journal)) >= 3 and engines(command), command)
            engines(command)[0].send_signal(signal.SIGKILL)
            wait_until(lambda: len(finished(journal)) >= 9, command)
            tree = psutil.Process(command.process.pid).children(recursive=True)
            command.process.kill()
            command.process.wait()
        psutil.wait_procs(tree, timeout=30)  # the cluster ends with the process that started it
        done = run_command(*words, folder=tmp_path, seconds=400)
        assert done.returncode == 0, done.stderr
        assert result_of(done.stdout)["rows"] == ROWS
        assert result_of(done.stdout)["resumed_rows"] >= 9 * PART
        with Connection(Target(double.url)) as connection:
            assert sorted(connection.ids("docs").tolist()) == list(range(ROWS))


def test_problems_are_named_before_the_work(tiny_artifact: Path, source: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    none = run_command(
        "cluster", "embed", str(tiny_artifact), "in", "out", "--address", f"127.0.0.1:{port}", folder=tmp_path
    )
    assert none.returncode == 1
    assert f"no cluster answers at 127.0.0.1:{port}" in none.stderr
    for changes, message in (
        (["--digest", "0" * 64], "0" * 64),
        (["--engines", "5000"], "5000 replicas of an engine need"),
        (["--provider", "cuda"], "cuda"),
    ):
        words = [
            "cluster",
            "embed",
            str(tiny_artifact),
            str(source),
            str(tmp_path / "out"),
            "--address",
            "local",
            *changes,
        ]
        done = run_command(*words, folder=tmp_path)
        assert done.returncode == 1, done.stdout
        assert message in done.stderr
        assert not (tmp_path / "out").exists()
    for artifact, message in (
        (str(tmp_path / "nowhere"), "nowhere"),
        ("file:///no/where", "file:///no/where is not an"),
    ):
        words = ["cluster", "embed", artifact, str(source), "out", "--address", "local"]
        lacking = run_command(*words, folder=tmp_path)
        assert lacking.returncode == 1
        assert message in lacking.stderr


def test_a_row_that_cannot_be_used_is_named(tiny_artifact: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "in.parquet")
    done = run_command(
        "cluster",
        "embed",
        str(tiny_artifact),
        "in.parquet",
        "out",
        "--address",
        "local",
        "--provider",
        "mlas",
        folder=tmp_path,
    )
    assert done.returncode == 1
    assert "row 1 (from 0): 'text' is null" in done.stderr


def test_no_process_stays(mark: str) -> None:
    """The processes of the clusters above end with their commands, some seconds later on a busy machine."""
    deadline = time.monotonic() + 60
    while left := [one for one in psutil.process_iter(["environ"]) if (one.info["environ"] or {}).get(MARK) == mark]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
