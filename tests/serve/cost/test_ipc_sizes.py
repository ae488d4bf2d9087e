"""Sizes of Arrow streams before they are read, compared with what pyarrow reads."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest

from fletcher.serve.arrow.ipc_sizes import stream_sizes
from fletcher.serve.arrow.streams import measure
from fletcher.serve.errors import FieldError, TooLargeError

TABLES = {
    "texts": pa.table({"text": ["ab", "cd" * 500, "", "ef"] * 100, "row": list(range(400))}),
    "large": pa.table({"text": pa.array(["a" * 100_000], pa.large_string())}),
    "nulls": pa.table({"text": ["ab", None] * 50, "none": pa.nulls(100)}),
    "dictionary": pa.table({"text": pa.array(["ab" * 1000, "cd"] * 50).dictionary_encode()}),
    "lists": pa.table({"text": ["ab"], "more": [[1, 2, 3]]}),
    "empty": pa.table({"text": pa.array([], pa.string())}),
}


def stream(table: pa.Table, compression: str | None, rows: int = 64) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
@pytest.mark.parametrize("name", TABLES)
def test_the_sizes_are_those_that_pyarrow_reads(name: str, compression: str | None) -> None:
    table = TABLES[name]
    rows, plain = stream_sizes(stream(table, compression))
    assert rows == table.num_rows
    # The writer pads the buffers of an uncompressed stream to multiples of 8 bytes, and cuts offsets for each batch.
    assert table.nbytes * 0.9 <= plain <= table.nbytes * 1.1 + 4096


def test_a_small_stream_that_becomes_large_is_refused_without_reading_it() -> None:
    body = stream(TABLES["large"], "zstd")
    assert len(body) < 1000
    with pytest.raises(TooLargeError, match="when decompressed"):
        measure(body, 99_999, 10)


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(FieldError, match="400 rows; the limit is 399"):
        measure(stream(TABLES["texts"], None), 1 << 20, 399)


def test_damaged_streams_are_errors() -> None:
    body = bytearray(stream(TABLES["texts"], "zstd"))
    for place in range(0, len(body), 7):
        damaged = bytes(body[:place]) + bytes([body[place] ^ 0xFF]) + bytes(body[place + 1 :])
        try:
            measure(damaged, 1 << 20, 1000)
        except (FieldError, TooLargeError):
            continue
