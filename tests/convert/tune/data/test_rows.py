"""Rows of every format, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fletcher.convert.tune.data.rows import read_rows
from fletcher.runtime.errors import InputError

ROWS = [{"query": "a, b", "positive": 'quoted "c"'}, {"query": "ü", "positive": "two\nlines"}]


def save(folder: Path, suffix: str) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    elif suffix in (".csv", ".tsv"):
        mark = "," if suffix == ".csv" else "\t"
        path.write_text(f'query{mark}positive\n"a, b"{mark}"quoted ""c"""\nü{mark}"two\nlines"\n', encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_formats_have_the_same_rows(suffix: str, tmp_path: Path) -> None:
    assert [dict(row) for _, row in read_rows(save(tmp_path, suffix))] == ROWS


def test_an_empty_cell_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("query,positive,negative_1,negative_2,group\na,b,c,,\n")
    ((_, row),) = read_rows(tmp_path / "a.csv")
    assert row == {"query": "a", "positive": "b", "negative_1": "c", "negative_2": None, "group": None}


def test_a_data_set_on_disk_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "other")
    for name in ("one", "splits"):
        assert [dict(row) for _, row in read_rows(tmp_path / name)] == ROWS
    with pytest.raises(InputError, match="has the splits dev, and no train"):
        read_rows(tmp_path / "other")


def test_lines_of_text_have_a_column(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n")
    assert read_rows(tmp_path / "texts.txt")[1] == (f"{tmp_path / 'texts.txt'}, line 3", {"text": "two"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"query": "a"}\n[1]\n', r"a\.jsonl, line 2: "),
        ("a.csv", b"query,positive\na\n", "another number of columns"),
        ("a.csv", b"query\n\xff\n", "not UTF-8"),
        ("a.parquet", b"PAR1 and nothing", "not a readable parquet file"),
        ("a.xlsx", b"", "unknown format"),
    ],
)
def test_unreadable_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_file_and_a_folder_without_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="not a data set"):
        read_rows(tmp_path)
