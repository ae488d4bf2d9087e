"""An engine of a corpus job without Ray: rows, order, vectors, retries, and errors that name file and row."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fletcher.runtime import LoadOptions
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.cluster_ray.corpus.attempts import Attempts
from fletcher.serve.cluster_ray.corpus.files import TEMPORARY, remove_temporary
from fletcher.serve.cluster_ray.corpus.journal import Done
from fletcher.serve.cluster_ray.corpus.longbow import check_dataset, count_rows
from fletcher.serve.cluster_ray.corpus.parts import Part, read_part
from fletcher.serve.cluster_ray.corpus.worker import PartEmbedder, WorkerJob
from fletcher.serve.files.options import InputOptions
from fletcher.serve.longbow.options import LongbowOptions
from fletcher.serve.longbow.wire.connection import Connection
from fletcher.serve.longbow.wire.target import Target

from ....doubles.longbow import LongbowDouble
from ..conftest import TEXTS

ROWS = 3000
LOAD = LoadOptions(provider="mlas", workers=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.parquet"
    texts = [TEXTS[row % 3] for row in range(ROWS)]
    pq.write_table(pa.table({"id": range(ROWS), "text": texts}), file, row_group_size=1000)
    return file


def parts_of(source: Path) -> list[Part]:
    return [Part(number, str(source), number * 1000, 1000, (number, number + 1)) for number in range(3)]


def job(artifact: Path, **changes: Any) -> WorkerJob:
    fields = {"load": LOAD, "options": EmbedOptions(), "inputs": InputOptions(chunk_size=300), "identity": "job1"}
    return WorkerJob(artifact=str(artifact), **{**fields, **changes})


def embed(worker: WorkerJob, parts: list[Part]) -> list[Done]:
    embedder = PartEmbedder(msgspec.json.encode(worker))
    made = embedder(pa.table({"part": [msgspec.json.encode(part).decode() for part in parts]}))
    return [msgspec.json.decode(text, type=Done) for text in made["done"].to_pylist()]


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("part-*.parquet")))


def test_files_have_every_row_once_in_order(
    tiny_artifact: Path, tiny_vectors: Any, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    worker = job(tiny_artifact, folder=str(out))
    done = embed(worker, parts_of(source))
    assert [(one.number, one.rows, one.written, one.error) for one in done] == [(n, 1000, 1000, "") for n in range(3)]
    assert all(
        one.tokens > 0 and one.node and one.space.startswith("fs1-") and one.memory > 0 and one.cpu_seconds > 0
        for one in done
    )
    embed(worker, parts_of(source)[1:2])  # an engine that died after it had written, and the next one
    table = read(out)
    assert table["id"].to_pylist() == list(range(ROWS))
    assert table["text"].to_pylist() == [TEXTS[row % 3] for row in range(ROWS)]
    assert table["vector"].type == pa.list_(pa.float32(), 32)
    np.testing.assert_allclose(
        np.array(table["vector"].to_pylist()), np.tile(tiny_vectors, (ROWS // 3, 1)), rtol=0, atol=1e-5
    )
    metadata = pq.read_schema(next(out.glob("part-*.parquet"))).metadata
    assert metadata[b"fletcher.space"].decode() == done[0].space
    remove_temporary(str(out))
    assert not (out / TEMPORARY).exists()


def test_a_part_that_fails_leaves_no_file(tiny_artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", "b", None, "d"]}), file, row_group_size=4)
    out = tmp_path / "out"
    (done,) = embed(job(tiny_artifact, folder=str(out)), [Part(7, str(file), 0, 4, (0, 1))])
    assert done.by_input
    assert f"{file}, part-000007: {file}, row 2 (from 0): 'text' is null" in done.error
    assert not list(out.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("columns", "part", "message"),
    [
        ({"text": [1, 2]}, (2, (0, 1)), "'text' holds int64"),
        ({"text": ["a", "b"], "vector": [1, 2]}, (2, (0, 1)), "the input has vector, a name that the output needs"),
        ({"text": ["a", "b"]}, (3, (0, 1)), "2 rows were read, and there were 3 when the job began"),
    ],
)
def test_input_that_cannot_be_used_is_named(
    tiny_artifact: Path, tmp_path: Path, columns: dict[str, Any], part: tuple[int, tuple[int, int]], message: str
) -> None:
    file = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), file)
    (done,) = embed(job(tiny_artifact, folder=str(tmp_path / "out")), [Part(0, str(file), 0, *part)])
    assert message in done.error
    assert done.by_input


def test_options_of_the_vectors(tiny_artifact: Path, tiny_vectors: Any, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embed(job(tiny_artifact, folder=str(out), options=EmbedOptions(dimensions=16)), parts_of(source)[:1])
    cut = tiny_vectors[:, :16]
    right = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(read(out)["vector"].to_pylist()[:3]), right, rtol=0, atol=1e-5)


@pytest.fixture
def longbow() -> Iterator[LongbowDouble]:
    with LongbowDouble() as double:
        yield double


def rows_of(double: LongbowDouble) -> list[int]:
    with Connection(Target(double.url)) as connection:
        return sorted(connection.ids("docs").tolist())


def test_longbow_has_every_row_once(tiny_artifact: Path, source: Path, longbow: LongbowDouble) -> None:
    options = LongbowOptions(longbow=longbow.url, dataset="docs")
    assert check_dataset(options, 32, with_text=True) == 0
    worker = job(tiny_artifact, longbow=options)
    done = embed(worker, parts_of(source))
    assert [(one.rows, one.written, one.error) for one in done] == [(1000, 1000, "")] * 3
    assert rows_of(longbow) == list(range(ROWS))
    again = embed(msgspec.structs.replace(worker, resumed=True), parts_of(source)[:2])
    assert [(one.rows, one.written, one.error) for one in again] == [(1000, 0, "")] * 2
    assert rows_of(longbow) == list(range(ROWS))
    assert count_rows(options) == ROWS
    with pytest.raises(InputError, match="has vectors of 32 numbers, and these have 16"):
        check_dataset(options, 16, with_text=True)


def test_an_engine_that_died_in_a_part_is_continued(
    tiny_artifact: Path, source: Path, longbow: LongbowDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first engine sends some of a part's rows; the second one sends the others."""
    options = LongbowOptions(longbow=longbow.url, dataset="docs")
    worker = job(tiny_artifact, longbow=options)
    died = threading.Event()

    def dying(part: Part, inputs: InputOptions) -> Iterator[pa.RecordBatch]:
        for index, batch in enumerate(read_part(part, inputs)):
            if index == 2 and not died.is_set():
                died.set()
                raise OSError("the engine died")
            yield batch

    monkeypatch.setattr("fletcher.serve.cluster_ray.corpus.worker.read_part", dying)
    part = parts_of(source)[1]
    (first,) = embed(worker, [part])
    assert "the engine died" in first.error
    (second,) = embed(msgspec.structs.replace(worker, resumed=True), [part])
    assert (second.error, second.rows) == ("", 1000)
    assert rows_of(longbow) == list(range(1000, 2000))


def test_ids_of_a_column(tiny_artifact: Path, tmp_path: Path, longbow: LongbowDouble) -> None:
    file = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": TEXTS, "key": [7, 9, 2**32 - 1], "word": ["a", "b", "c"]}), file)
    options = LongbowOptions(longbow=longbow.url, dataset="docs")
    (done,) = embed(job(tiny_artifact, longbow=options, id_column="key"), [Part(0, str(file), 0, 3, (0, 1))])
    assert done.error == ""
    assert rows_of(longbow) == [7, 9, 2**32 - 1]
    for column, message in (("word", "must hold whole numbers"), ("none", "has no column 'none' for ids")):
        (failed,) = embed(job(tiny_artifact, longbow=options, id_column=column), [Part(1, str(file), 0, 3, (0, 1))])
        assert message in failed.error


def test_attempts_are_counted_and_lost_with_the_actor() -> None:
    attempts = Attempts()
    assert [attempts.begin(1), attempts.begin(2), attempts.begin(1)] == [False, False, True]
    assert Attempts(restarted=True).begin(5)
