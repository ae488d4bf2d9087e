"""Reading of texts: every format gives the same rows, in order, in bounded chunks. Errors name the line or the row."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.files import chunks as textchunks
from fletcher.serve.files.texts import open_texts

TEXTS = ["first", "", "  spaces  ", "naïve café — 漢字 😀", 'quote " and, comma', "NUL \x00 and tab \t", "last"]
TITLES = [f"title {row}" for row in range(len(TEXTS))]


def write_txt(path: Path) -> None:
    path.write_bytes("".join(text + "\n" for text in TEXTS).encode())


def write_jsonl(path: Path) -> None:
    rows = ({"text": text, "title": title} for text, title in zip(TEXTS, TITLES, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("title", "text"), *zip(TITLES, TEXTS, strict=True)])


def table() -> pa.Table:
    return pa.table({"title": TITLES, "text": TEXTS})


def write_parquet(path: Path) -> None:
    pq.write_table(table(), path, row_group_size=2)


def write_arrow(path: Path) -> None:
    with pa.ipc.new_file(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=3)


def write_stream(path: Path) -> None:
    with pa.ipc.new_stream(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=3)


WRITERS = {
    "a.txt": write_txt,
    "a.jsonl": write_jsonl,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
    "a.arrow": write_arrow,
    "a.arrows": write_stream,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("chunk_texts", [1, 3, 4096])
def test_every_format_returns_the_rows_in_order(name: str, chunk_texts: int, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    with open_texts(str(path), chunk_texts=chunk_texts) as source:
        chunks = list(source.chunks)
    assert [text for chunk in chunks for text in chunk.texts] == TEXTS
    starts = [chunk.first_row for chunk in chunks]
    assert starts == [sum(len(chunk.texts) for chunk in chunks[:index]) for index in range(len(chunks))]
    assert max(len(chunk.texts) for chunk in chunks) <= chunk_texts
    if name != "a.txt":
        assert source.schema.names == ["title"]
        assert [title for chunk in chunks for title in chunk.carried.column("title").to_pylist()] == TITLES
    if name not in ("a.arrow", "a.arrows"):
        assert source.total == len(TEXTS)


def read(path: Path, *, column: str = "text", text_format: str | None = None) -> list[str]:
    with open_texts(str(path), column=column, text_format=text_format) as source:
        return [text for chunk in source.chunks for text in chunk.texts]


def write_file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),  # only the first bytes of a file are a byte order mark
        ("a\u2028b\x0cc\n".encode(), ["a\u2028b\x0cc"]),  # only LF ends a line
    ],
)
def test_txt_lines(content: bytes, expected: list[str], tmp_path: Path) -> None:
    path = write_file(tmp_path, "a.txt", content)
    assert read(path) == expected
    with open_texts(str(path)) as source:
        assert source.total == len(expected)


def test_jsonl_skips_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write_file(tmp_path, "a.ndjson", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert read(path) == ["a", "b"]


def test_csv_keeps_line_breaks_inside_quotes_and_long_fields(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    assert read(write_file(tmp_path, "a.csv", f'text\r\n"a\r\nb"\r\n{long}\r\n'.encode())) == ["a\r\nb", long]


def test_the_column_of_texts_can_be_named(tmp_path: Path) -> None:
    assert read(write_file(tmp_path, "a.jsonl", b'{"body": "a", "n": 1}\n'), column="body") == ["a"]


def test_the_format_can_be_named(tmp_path: Path) -> None:
    assert read(write_file(tmp_path, "a.log", b"a\n"), text_format="txt") == ["a"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_every_string_type_of_arrow(kind: pa.DataType, tmp_path: Path) -> None:
    texts = pa.array(["a", "b", "a"]).cast(kind)
    data = pa.table({"text": texts, "tag": texts})
    with pa.ipc.new_file(tmp_path / "a.arrow", data.schema) as writer:
        writer.write_table(data)
    with open_texts(str(tmp_path / "a.arrow")) as source:
        (chunk,) = source.chunks
    assert chunk.texts == ["a", "b", "a"]
    assert chunk.carried.column("tag").to_pylist() == ["a", "b", "a"]


def test_jsonl_keys_get_the_type_that_holds_all_their_values(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "n": 1, "x": 1, "flag": True, "mixed": 1, "list": [1, "b"], "big": 2**70, "long": 2**60},
        {"text": "b", "n": 2, "x": 0.5, "flag": None, "mixed": "b", "late": "here", "long": 0.5},
    ]
    path = write_file(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    with open_texts(str(path), chunk_texts=1) as source:
        chunks = list(source.chunks)
    types = {field.name: str(field.type) for field in source.schema}
    assert types == {
        "n": "int64",
        "x": "double",
        "flag": "bool",
        "mixed": "string",
        "list": "string",
        "big": "string",
        "long": "string",
        "late": "string",
    }
    columns = pa.Table.from_batches([chunk.carried for chunk in chunks]).to_pydict()
    assert columns["n"] == [1, 2]
    assert columns["x"] == [1.0, 0.5]
    assert columns["flag"] == [True, None]
    assert [json.loads(value) for value in columns["mixed"]] == [1, "b"]
    assert [value and json.loads(value) for value in columns["list"]] == [[1, "b"], None]
    assert json.loads(columns["big"][0]) == 2**70
    assert [json.loads(value) for value in columns["long"]] == [2**60, 0.5]
    assert columns["late"] == [None, "here"]


def test_csv_columns_stay_strings(tmp_path: Path) -> None:
    with open_texts(str(write_file(tmp_path, "a.csv", b"id,text\n007,a\n"))) as source:
        (chunk,) = source.chunks
    assert chunk.carried.to_pydict() == {"id": ["007"]}


def test_chunks_end_early_when_texts_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.files.lines.CHUNK_CHARACTERS", 10)
    monkeypatch.setattr("fletcher.serve.files.columns.CHUNK_CHARACTERS", 40)
    lines = write_file(tmp_path, "a.txt", b"12345678\n" * 4)
    with open_texts(str(lines)) as source:
        assert [len(chunk.texts) for chunk in source.chunks] == [2, 2]
    pq.write_table(pa.table({"text": ["12345678"] * 16}), tmp_path / "a.parquet")
    with open_texts(str(tmp_path / "a.parquet")) as source:
        assert max(sum(map(len, chunk.texts)) for chunk in source.chunks) <= 40
    assert textchunks.CHUNK_TEXTS > 16  # so the chunks did not end because of their number of texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nbad \xff byte\n", r"a\.txt, line 2: byte 5 \(0xff\) is not UTF-8"),
        ("a.txt", b"\xff\xfea\x00", r"line 1: byte 1 \(0xff\) is not UTF-8"),
        ("a.csv", b"text\nfine\n\xe9t\xe9\n", r"a\.csv, line 3: byte 1 \(0xe9\)"),
        ("a.jsonl", b'{"text": "\xe9"}\n', r"a\.jsonl, line 1: byte 11"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2: not a JSON object"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1: not a JSON object.*surrogate"),
        ("a.jsonl", b'"text"\n', r"line 1: a JSON object such as"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"line 2: no key 'text'; it has 'txt'.*--column"),
        ("a.jsonl", b'{"text": null}\n', r"line 1: 'text' is null, and must be a string"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: 'text' is a number"),
        ("a.jsonl", b'{"text": "a", "vector": [1]}\n', r"'vector', a name that the output needs"),
        ("a.csv", b"", r"the file is empty"),
        ("a.csv", b"body\na\n", r"no column 'text'; it has 'body'"),
        ("a.csv", b"text,text\na,b\n", r"two columns have the same name"),
        ("a.csv", b"id,text\n1,a\n2\n", r"line 3: 1 fields, and the header has 2"),
        ("a.csv", b'text\n"never closed\n', r"not CSV"),
        ("a.parquet", b"not parquet at all", r"is not a complete parquet file"),
        ("a.arrow", b"ARROW1 but not really", r"is not a complete Arrow IPC file"),
        ("a.arrow", b"neither of the two", r"is not a complete Arrow IPC file"),
        ("a.pdf", b"", r"suffix '\.pdf' is not supported for texts"),
    ],
)
def test_errors_name_the_line_or_row(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(write_file(tmp_path, name, content))


def test_nulls_and_other_types_in_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", None, "d"]}), path)
    with (
        pytest.raises(InputError, match=r"row 2 \(from 0\): 'text' is null"),
        open_texts(str(path), chunk_texts=2) as source,
    ):
        list(source.chunks)
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(InputError, match="'text' holds int64, and must hold strings"):
        read(path)
    pq.write_table(pa.table({"body": ["a"]}), path)
    with pytest.raises(InputError, match="does not have one column 'text'; it has 'body'"):
        read(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.arrows"])
def test_a_damaged_file_of_columns_is_an_input_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is not a complete"):
        read(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    for name in WRITERS:
        with pytest.raises(FileNotFoundError):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("text_format", "content"),
    [(None, b"a\nb\n"), ("jsonl", b'{"text": "a"}\n{"text": "b"}\n'), ("csv", b"text\na\nb\n")],
)
def test_standard_input(text_format: str | None, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read(Path("-"), text_format=text_format) == ["a", "b"]


def test_standard_input_cannot_be_a_file_of_columns() -> None:
    with pytest.raises(InputError, match="standard input can be"):
        read(Path("-"), text_format="parquet")
