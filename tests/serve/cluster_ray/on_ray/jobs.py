"""Corpus jobs of the tests: their input, their journal, their engines, and the comparison of their output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ..conftest import TEXTS
from .command import Command

__all__ = [
    "OPTIONS",
    "PART",
    "ROWS",
    "check_output",
    "engines",
    "files_of",
    "finished",
    "nodes_of",
    "result_of",
    "wait_until",
    "write_source",
]

ROWS, PART = 60_000, 2_000

#: Options of every job.
OPTIONS = ["--provider", "mlas", "--part-rows", str(PART), "--json", "--cores", "1"]

SECONDS = 240.0


def write_source(folder: str) -> None:
    """Write the rows of the input to two files of a folder or URL."""
    store, root = opened(folder)
    store.create_dir(root, recursive=True)
    for file in range(2):
        ids = range(file * ROWS // 2, (file + 1) * ROWS // 2)
        table = pa.table({"id": ids, "text": [TEXTS[row % 3] for row in ids]})
        pq.write_table(table, f"{root}/{file}.parquet", filesystem=store, row_group_size=PART)


def opened(folder: str) -> tuple[pafs.FileSystem, str]:
    store, root = pafs.FileSystem.from_uri(folder if "://" in folder else Path(folder).as_uri())
    return store, root.rstrip("/")


def result_of(text: str) -> dict[str, Any]:
    """Return the result that a job printed."""
    found: dict[str, Any] = json.loads(text[text.index("{\n") :])
    return found


def files_of(folder: str) -> list[str]:
    """Return the paths of all files of a folder or URL, sorted."""
    store, root = opened(folder)
    entries = store.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
    return sorted(entry.path for entry in entries if entry.type == pafs.FileType.File)


def check_output(folder: str, vectors: Any) -> None:
    """Compare every row of the output with the input and with sentence-transformers."""
    store, root = opened(folder)
    files = [file for file in files_of(folder) if file.endswith(".parquet")]
    assert [file for file in files if not file.startswith(f"{root}/part-")] == []
    table = pa.concat_tables([pq.read_table(file, filesystem=store) for file in files])
    assert table["id"].to_pylist() == list(range(ROWS))
    made = np.array(table["vector"].combine_chunks().values).reshape(ROWS, -1)
    np.testing.assert_allclose(made, np.tile(vectors, (ROWS // 3, 1)), rtol=0, atol=1e-5)


def finished(folder: str) -> list[str]:
    """Return the finished parts that a journal has."""
    return [file for file in files_of(f"{folder}/parts") if file.endswith(".json")]


def nodes_of(folder: str) -> set[str]:
    """Return the nodes that have finished a part, as the journal of a local folder says."""
    return {json.loads(Path(file).read_bytes())["node"] for file in finished(folder)}


def engines(command: Command) -> list[psutil.Process]:
    """Return the processes that embed."""
    every = psutil.Process(command.process.pid).children(recursive=True)
    return [one for one in every if "MapWorker" in " ".join(one.cmdline())]


def wait_until(condition: Callable[[], Any], command: Command) -> None:
    """Wait until a condition holds while a command runs."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert command.process.poll() is None, command.errors.read_text()
        assert time.monotonic() < deadline, command.errors.read_text()
        time.sleep(0.05)
