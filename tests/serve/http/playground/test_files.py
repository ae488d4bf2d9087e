"""Files in the browser: Parquet as pyarrow writes it, csv as Python's csv module reads it."""

from __future__ import annotations

import base64
import csv
import io
import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .browser import Tab

COUNT = 3000
TABLE = pa.table(
    {
        "text": [f"text {row} größer 𝄞 " + "again " * (row % 7) for row in range(COUNT)],
        "same": ["one", "two", "three"] * (COUNT // 3),
        "none": [None if row % 3 else f"value {row}" for row in range(COUNT)],
        "int": pa.array([row * 1_000_003 - 5 for row in range(COUNT)], pa.int64()),
        "small": pa.array([row % 128 - 64 for row in range(COUNT)], pa.int8()),
        "float": pa.array([row / 8 for row in range(COUNT)], pa.float64()),
        "single": pa.array([row / 4 for row in range(COUNT)], pa.float32()),
        "flag": [row % 5 == 0 for row in range(COUNT)],
        "day": [date(2020, 1, 1 + row % 28) for row in range(COUNT)],
        "time": pa.array([datetime(2021, 3, 4, 5, 6, row % 60) for row in range(COUNT)], pa.timestamp("ms")),
        "price": [Decimal(row - 99).scaleb(-2) for row in range(COUNT)],
        "list": [[row, row + 1] for row in range(COUNT)],
        "empty": pa.array([None] * COUNT, pa.string()),
    }
)


def expected(name: str, value: Any) -> str:
    """Return the text of a value in the page, by the form in which JavaScript writes it."""
    if value is None:
        return ""
    if name == "flag":
        return str(value).lower()
    if name == "time":
        return str(value)
    if name in ("float", "single"):
        return f"{value:g}" if value != int(value) else str(int(value))
    return str(value)


def read(modules: Tab, data: bytes, most: int = 50_000) -> Any:
    """Return names and columns that the page reads, or its error."""
    script = f"const bytes = Uint8Array.from(atob('{base64.b64encode(data).decode()}'), (c) => c.charCodeAt(0));"
    script += "const {readParquet} = await import('./playground/files/parquet.js');"
    return modules.run(script + f"try {{ return await readParquet(bytes, {most}) }} catch (e) {{ return e.message }}")


def written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def check(found: Any, table: pa.Table, rows: int = COUNT) -> None:
    flat = [name for name in table.column_names if name != "list"]
    assert found["names"] == flat
    assert found["total"] == COUNT
    for name, column in zip(flat, found["columns"], strict=True):
        assert column == [expected(name, value) for value in table[name].to_pylist()[:rows]], name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none", "row_group_size": 700, "data_page_size": 2000},
        {"compression": "gzip", "data_page_version": "2.0", "use_dictionary": False},
        {"compression": "lz4", "data_page_version": "2.0"},
        {"use_deprecated_int96_timestamps": True, "version": "1.0", "use_dictionary": False},
        {
            "use_dictionary": False,
            "column_encoding": {
                "text": "DELTA_BYTE_ARRAY",
                "same": "DELTA_LENGTH_BYTE_ARRAY",
                "int": "DELTA_BINARY_PACKED",
                "small": "DELTA_BINARY_PACKED",
            },
        },
    ],
    ids=str,
)
def test_parquet_is_read_as_pyarrow_writes_it(modules: Tab, options: dict[str, Any]) -> None:
    check(read(modules, written(TABLE, **options)), TABLE)


def test_rows_beyond_the_limit_are_not_read(modules: Tab) -> None:
    check(read(modules, written(TABLE, row_group_size=700), most=1000), TABLE, 1000)


def test_decimals_of_integers_are_numbers(modules: Tab) -> None:
    table = pa.table({"price": pa.array([Decimal("12.34"), Decimal("-0.50")], pa.decimal128(9, 2))})
    assert read(modules, written(table, store_decimal_as_integer=True))["columns"] == [["12.34", "-0.50"]]


@pytest.mark.parametrize("codec", ["zstd", "brotli"])
def test_codecs_that_browsers_lack_are_named(modules: Tab, codec: str) -> None:
    assert f"compressed with {codec}" in read(modules, written(TABLE, compression=codec))


def test_damaged_files_are_refused_and_never_hang(modules: Tab) -> None:
    """Each file lacks a part, or has another byte: the page reads it or says that it is damaged."""
    data = written(TABLE.slice(0, 200), compression="snappy", use_dictionary=["same"])
    script = f"const whole = Uint8Array.from(atob('{base64.b64encode(data).decode()}'), (c) => c.charCodeAt(0));"
    script += """
    const {readParquet} = await import('./playground/files/parquet.js');
    let refused = 0, seed = 1;
    const random = (below) => { seed = (seed * 48271) % 2147483647; return seed % below; };
    for (let time = 0; time < 150; time++) {
      const bytes = time % 3 ? whole.slice() : whole.slice(0, whole.length - 1 - random(whole.length));
      if (time % 3) bytes[random(bytes.length)] ^= 1 << random(8);
      try { await readParquet(bytes, 50000) }
      catch (error) {
        if (error.constructor.name !== 'InputError') throw error;
        refused++;
      }
    }
    return refused;
    """
    assert modules.run(script) > 50  # those that lack a part, at least


CSV = [
    'a,b\n1,2\n3,4',
    'a,b\r\n"x, y","say ""hi"""\r\n"two\nlines",\n',
    'a,b\n,\n"",""\n',
    'a\n"1"\n\n2\n',
    'a,b,c\n1,2\n1,2,3,\n',
    "größe,𝄞\n1,2\n",
]  # fmt: skip


@pytest.mark.parametrize("text", CSV)
def test_csv_is_read_as_python_reads_it(modules: Tab, text: str) -> None:
    script = "const {parseTable} = await import('./playground/files/read.js');"
    found = modules.run(f"{script} return parseTable({json.dumps(text)}, ',')")
    assert found == [record for record in csv.reader(io.StringIO(text, newline="")) if record]


def test_separators_names_and_rows_of_csv(modules: Tab) -> None:
    def read_text(text: str, header: bool = True, end: str = "csv") -> Any:
        script = "const {readText} = await import('./playground/files/read.js');"
        return modules.run(f"{script} return readText({json.dumps(text)}, {json.dumps(header)}, {json.dumps(end)})")

    found = read_text("id;text;text\n1;one, two;x\n2;three;y\n")
    assert (found["names"], found["total"]) == (["id", "text", "text (2)"], 2)
    assert found["columns"] == [["1", "2"], ["one, two", "three"], ["x", "y"]]
    assert read_text("1\t2\n", header=False, end="tsv")["names"] == ["column 1", "column 2"]
    lines = read_text('{"a": 1, "b": {"c": null}}\n\n{"a": "x", "d": true}\n', end="jsonl")
    assert lines["names"] == ["a", "b", "d"]
    assert lines["columns"] == [["1", "x"], ['{"c":null}', ""], ["", "true"]]
    assert read_text('["one", "two"]', end="json")["columns"] == [["one", "two"]]
    many = read_text("\n".join(map(str, range(50_010))), end="txt")
    assert (many["total"], len(many["columns"][0])) == (50_010, 50_000)


def test_the_column_with_the_texts_is_found(modules: Tab, tmp_path: Path) -> None:
    script = "const {textColumn} = await import('./playground/files/read.js');"
    columns = [["1", "2"], ["a long text about bread", "another text about keys"], ["red", "red"]]
    found = modules.run(
        f"{script} return textColumn({{names: ['id', 'remark', 'color'], columns: {json.dumps(columns)}}})"
    )
    assert found == 1
