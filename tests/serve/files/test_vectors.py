"""Writing of vectors: readers of each format get the vectors, and no partial file stays."""

from __future__ import annotations

import errno
import io
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.files.chunks import TextChunk
from fletcher.serve.files.vectors import open_vectors

PLAIN = EmbedOptions()
VECTORS = np.arange(20, dtype=np.float32).reshape(5, 4) / 7
NONE = pa.schema([])
SUFFIXES = ["npy", "parquet", "arrow"]


def embeddings_of(vectors: np.ndarray) -> Embeddings:
    return Embeddings(vectors, np.ones(len(vectors), np.int64), np.zeros(len(vectors), np.int32))


def chunks(carried: pa.Table) -> Iterator[tuple[TextChunk, np.ndarray]]:
    for start, stop in ((0, 2), (2, 5)):
        (batch,) = carried.slice(start, stop - start).combine_chunks().to_batches() or [pa.RecordBatch.from_pydict({})]
        yield TextChunk(start, [f"text {row}" for row in range(start, stop)], batch), VECTORS[start:stop]


def write(path: Path, carried: pa.Table, *, force: bool = False) -> None:
    with open_vectors(path, 4, carried.schema, PLAIN, force=force) as writer:
        for chunk, vectors in chunks(carried):
            writer.write(chunk, embeddings_of(vectors))


def read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with pa.ipc.open_file(path) as reader:
        return reader.read_all()


def test_numpy_reads_npy_files(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", pa.table({}))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, VECTORS)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_columns(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    write(path, pa.table({"title": list("abcde"), "year": range(5)}))
    table = read(path)
    assert table.column_names == ["id", "text", "vector", "title", "year"]
    assert table.schema.field("id").type == pa.int64()
    assert pa.types.is_fixed_size_list(table.schema.field("vector").type)
    assert table.schema.field("vector").type.list_size == 4
    assert table.schema.field("vector").type.value_type == pa.float32()
    assert table["id"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["text"].to_pylist() == [f"text {row}" for row in range(5)]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), VECTORS)
    assert table["title"].to_pylist() == list("abcde")
    assert table["year"].to_pylist() == list(range(5))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_the_id_of_the_input_is_kept(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    write(path, pa.table({"title": list("abcde"), "id": list("vwxyz")}))
    table = read(path)
    assert table.column_names == ["id", "text", "vector", "title"]
    assert table["id"].to_pylist() == list("vwxyz")


def test_parquet_is_compressed_with_zstd(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({}))
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    assert {group.column(index).compression for index in range(group.num_columns)} == {"ZSTD"}


def test_parquet_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.files.vectors.ROW_GROUP_BYTES", 1)
    write(tmp_path / "a.parquet", pa.table({}))
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [2, 3]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_texts_make_a_complete_file_without_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    with open_vectors(path, 4, NONE, PLAIN):
        pass
    shape = (
        np.load(path).shape if suffix == "npy" else (len(read(path)), read(path).schema.field("vector").type.list_size)
    )
    assert shape == (0, 4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_leaves_no_file(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_vectors(tmp_path / f"a.{suffix}", 4, NONE, PLAIN) as writer:
        chunk, vectors = next(chunks(pa.table({})))
        writer.write(chunk, embeddings_of(vectors))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_leaves_the_older_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"older")
    with pytest.raises(ZeroDivisionError), open_vectors(path, 4, NONE, PLAIN, force=True):
        raise ZeroDivisionError
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with open_vectors(path, 4, NONE, PLAIN):
        assert not path.exists()
    assert path.exists()


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"older")
    with pytest.raises(InputError, match=r"exists; .*--force"):
        write(path, pa.table({}))
    assert path.read_bytes() == b"older"
    write(path, pa.table({}), force=True)
    assert np.load(path).shape == (5, 4)


def test_a_file_that_another_process_creates_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(InputError, match="exists"), open_vectors(path, 4, NONE, PLAIN):
        path.write_bytes(b"another's")
    assert path.read_bytes() == b"another's"


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.txt", "not supported for vectors"), ("none/a.npy", "there is no folder"), ("a", "not supported")],
)
def test_unusable_targets(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path / name, pa.table({}))


class _FullDisk(io.FileIO):
    """A file on a disk that has space for only about 100 bytes."""

    def write(self, data: object) -> int:
        if self.tell() > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_no_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", lambda path, mode: _FullDisk(path, mode))
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path / f"a.{suffix}", pa.table({}))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from fletcher.runtime import Embeddings
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.files.chunks import TextChunk
from fletcher.serve.files.vectors import open_vectors
empty = pa.RecordBatch.from_pydict({})
with open_vectors(Path(sys.argv[1]), 1000, pa.schema([]), EmbedOptions()) as writer:
    for row in range(1000):
        vectors = np.random.default_rng(row).random((1, 1000), np.float32)
        writer.write(TextChunk(row, ["text"], empty), Embeddings(vectors, np.ones(1, int), np.zeros(1, np.int32)))
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_limit_of_the_file_size_is_an_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("OSError: [Errno 27]")
    assert "ignored" not in done.stderr
    assert list(tmp_path.iterdir()) == []
