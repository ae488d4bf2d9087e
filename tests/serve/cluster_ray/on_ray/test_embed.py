"""`fletcher-serve cluster embed` on a real cluster of one machine: rows, resume, kills, and problems before the work."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray")

import psutil  # type: ignore[import-untyped]

from fletcher.serve.longbow.wire.connection import Connection
from fletcher.serve.longbow.wire.target import Target

from ....doubles.longbow import LongbowDouble
from ..conftest import TEXTS
from .command import Command, free_ports, run_command, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROWS, PART = 60_000, 2_000
OPTIONS = [
    "--address",
    "local",
    "--provider",
    "mlas",
    "--part-rows",
    str(PART),
    "--engines",
    "1",
    "--cores",
    "1",
    "--json",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for file in range(2):
        ids = range(file * ROWS // 2, (file + 1) * ROWS // 2)
        table = pa.table({"id": ids, "text": [TEXTS[row % 3] for row in ids]})
        pq.write_table(table, folder / f"{file}.parquet", row_group_size=PART)
    return folder


def result_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text[text.index("{\n") :])
    return found


def check_files(folder: Path, vectors: Any) -> None:
    """Compare every row of the output with the input and with sentence-transformers."""
    files = sorted(folder.glob("part-*.parquet"))
    assert [file for file in folder.rglob("*.parquet") if file not in files] == []
    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table["id"].to_pylist() == list(range(ROWS))
    made = np.array(table["vector"].combine_chunks().values).reshape(ROWS, -1)
    np.testing.assert_allclose(made, np.tile(vectors, (ROWS // 3, 1)), rtol=0, atol=1e-5)


def finished(out: Path) -> int:
    return len(list((out / "_fletcher" / "parts").glob("*.json")))


def engines(command: Command) -> list[psutil.Process]:
    """Return the processes that embed."""
    every = psutil.Process(command.process.pid).children(recursive=True)
    return [one for one in every if "MapWorker" in " ".join(one.cmdline())]


def wait_until(condition: Any, command: Command) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert command.process.poll() is None, command.errors.read_text()
        assert time.monotonic() < deadline, command.errors.read_text()
        time.sleep(0.05)


def test_killed_engines_and_jobs_lose_and_double_nothing(
    tiny_artifact: Path, tiny_vectors: Any, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["cluster", "embed", str(tiny_artifact), str(source), str(out), *OPTIONS]
    with started(words, tmp_path) as command:
        for kill in range(2):
            wait_until(lambda least=4 * kill + 3: finished(out) >= least and engines(command), command)
            engines(command)[0].send_signal(signal.SIGKILL)
        wait_until(lambda: finished(out) >= 12, command)
        tree = psutil.Process(command.process.pid).children(recursive=True)
        command.process.kill()
        command.process.wait()
    psutil.wait_procs(tree, timeout=30)  # the cluster ends with the process that started it
    before = finished(out)
    assert 12 <= before < ROWS // PART
    done = run_command(*words, folder=tmp_path, seconds=400)
    assert done.returncode == 0, done.stderr
    result = result_of(done.stdout)
    assert (result["rows"], result["parts"], result["resumed_rows"]) == (ROWS, ROWS // PART, before * PART)
    assert sum(result["rows_by_node"].values()) == ROWS
    assert 0 < result["memory"] < 2**30
    check_files(out, tiny_vectors)
    again = run_command(*words, folder=tmp_path)
    assert result_of(again.stdout)["written_rows"] == 0
    other = run_command(*words, "--dtype", "float16", folder=tmp_path)
    assert other.returncode == 1
    assert "is the journal of another job" in other.stderr


def test_longbow_has_every_row_once_after_a_killed_engine(tiny_artifact: Path, source: Path, tmp_path: Path) -> None:
    with LongbowDouble() as double:
        words = ["cluster", "embed", str(tiny_artifact), str(source), f"{double.url}/docs", *OPTIONS]
        with started(words, tmp_path) as command:
            parts = tmp_path / "docs.parts" / "parts"
            wait_until(lambda: len(list(parts.glob("*.json"))) >= 3 and engines(command), command)
            engines(command)[0].send_signal(signal.SIGKILL)
            assert command.process.wait(400) == 0, command.errors.read_text()
        assert result_of(command.out.read_text())["rows"] == ROWS
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
    lacking = run_command(
        "cluster", "embed", str(tmp_path / "nowhere"), str(source), "out", "--address", "local", folder=tmp_path
    )
    assert lacking.returncode == 1
    assert "nowhere" in lacking.stderr


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


def test_no_process_stays(tmp_path: Path) -> None:
    """The processes of the clusters above have ended with their commands."""
    own = os.getuid()
    names = [
        one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline", "uids"]) if one.info["uids"].real == own
    ]
    assert not [words for words in names if any("MapWorker" in word for word in words)]
