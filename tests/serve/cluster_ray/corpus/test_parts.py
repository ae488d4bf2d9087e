"""Parts of files: their rows and row groups, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.cluster_ray.corpus.parts import FileQuestion, Part, Planned, find_files, plan_file, read_part
from fletcher.serve.files.options import InputOptions

ROWS = 25
TABLE = pa.table({"id": range(ROWS), "text": [f"text {row}" for row in range(ROWS)]})


def plan(path: Path, part_rows: int, **inputs: object) -> Planned:
    question = FileQuestion(str(path), part_rows, msgspec.convert(inputs, InputOptions))
    return msgspec.json.decode(plan_file(msgspec.json.encode(question)), type=Planned)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    file = tmp_path / "a.parquet"
    pq.write_table(TABLE, file, row_group_size=10)  # groups of 10, 10 and 5 rows
    return file


@pytest.fixture
def arrow(tmp_path: Path) -> Path:
    file = tmp_path / "a.arrow"
    with pa.ipc.new_file(str(file), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=10)
    return file


@pytest.mark.parametrize(
    ("part_rows", "parts"),
    [
        (10, [(10, (0, 1)), (10, (1, 2)), (5, (2, 3))]),
        (15, [(10, (0, 1)), (15, (1, 3))]),
        (100, [(25, (0, 3))]),
        (1, None),
    ],
)
def test_parts_are_whole_row_groups(
    parquet: Path, arrow: Path, part_rows: int, parts: list[tuple[int, tuple[int, int]]] | None
) -> None:
    parts = [(10, (0, 1)), (10, (1, 2)), (5, (2, 3))] if parts is None else parts
    for file in (parquet, arrow):
        assert list(plan(file, part_rows).parts) == parts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one", "n": 1}\n{"text": "two", "n": 2}\n'),
        ("a.csv", 'text,n\none,1\n"two\nlines",2\n'),
        ("a.txt", "one\ntwo\n"),
    ],
)
def test_other_files_are_one_part(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert plan(tmp_path / name, 1).parts == ((2, None),)
    batches = list(read_part(Part(0, str(tmp_path / name), 0, 2), InputOptions()))
    table = pa.Table.from_batches(batches)
    assert table["text"].to_pylist()[0] == "one"
    if name != "a.txt":
        assert [str(value) for value in table["n"].to_pylist()] == ["1", "2"]


def test_a_part_has_its_rows_with_all_columns(parquet: Path, arrow: Path) -> None:
    for file in (parquet, arrow):
        batches = list(read_part(Part(1, str(file), 10, 15, (1, 3)), InputOptions(chunk_size=4)))
        assert max(batch.num_rows for batch in batches) <= 4
        assert pa.Table.from_batches(batches).equals(TABLE.slice(10))


def test_files_of_a_folder_are_in_order_without_those_of_tools(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/2.jsonl", "a/1.jsonl", "_SUCCESS", "_fletcher/x.jsonl", ".hidden.csv", "notes.md"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    expected = [str(tmp_path / name) for name in ("a/1.jsonl", "a/2.jsonl", "b.parquet")]
    assert find_files(str(tmp_path)) == expected
    assert find_files(f"file://{tmp_path}") == [f"file://{path}" for path in expected]
    assert find_files(expected[2]) == [expected[2]]


def test_what_cannot_be_read_is_named(tmp_path: Path, parquet: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_files(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no file that ends in \.parquet"):
        find_files(str(tmp_path / "empty"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is none")
    assert "bad.parquet" in plan(tmp_path / "bad.parquet", 10).problem
    with pytest.raises(InputError, match="does not have one column 'words'; it has 'id', 'text'"):
        list(read_part(Part(0, str(parquet), 0, 10, (0, 1)), InputOptions(column="words")))
