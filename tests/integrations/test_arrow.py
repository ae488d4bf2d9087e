"""`TableEmbedder`: vectors of tables and record batches, beside those of sentence-transformers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fletcher import EmbedOptions
from fletcher.integrations.arrow import TableEmbedder
from fletcher.runtime.errors import InputError

from .conftest import LOAD, TEXTS, Tiny, close


def test_a_table_gets_a_column_of_vectors(tiny: Tiny) -> None:
    embedder = TableEmbedder(str(tiny.embedder), load=LOAD)
    table = pa.table({"id": [1, 2, 3], "text": TEXTS})
    several = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    for rows in (table, several, table.to_batches()[0]):
        made = embedder(rows)
        assert type(made) is type(rows)
        assert made.schema == table.schema.append(pa.field("vector", pa.list_(pa.float32(), 32)))
        close(made.column(2).to_pylist(), tiny.documents)
    empty = embedder(table.slice(0, 0))
    assert (len(empty), empty.schema.names) == (0, ["id", "text", "vector"])


def test_it_travels_to_other_processes(tiny: Tiny) -> None:
    embedder = TableEmbedder(str(tiny.embedder), column="words", options=EmbedOptions(input_type="query"), load=LOAD)
    again = pickle.loads(pickle.dumps(embedder))
    assert again == embedder
    assert again.encoder is embedder.encoder  # loaded once in this process
    close(again(pa.table({"words": TEXTS, "text": TEXTS}))["vector"].to_pylist(), tiny.queries)


def test_the_source_may_be_a_url(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path))
    embedder = TableEmbedder(f"file://{tiny.embedder}", load=LOAD)
    close(embedder(pa.table({"text": TEXTS}))["vector"].to_pylist(), tiny.documents)


def test_lists_have_any_length_for_spark(tiny: Tiny) -> None:
    batch = pa.record_batch({"text": TEXTS})
    (made,) = TableEmbedder(str(tiny.embedder), load=LOAD).lists([batch])
    assert made.schema.field("vector").type == pa.list_(pa.float32())
    close(made.column(1).to_pylist(), tiny.documents)


def test_options_of_the_vectors(tiny: Tiny) -> None:
    table = pa.table({"text": TEXTS})
    made = TableEmbedder(str(tiny.embedder), options=EmbedOptions(dtype="int8"), load=LOAD)(table)
    assert made.schema.names == ["text", "vector", "scale"]
    restored = np.array(made["vector"].to_pylist()) * np.array(made["scale"])[:, None]
    scales = np.abs(tiny.documents).max(axis=1) / 127
    assert (np.abs(restored - tiny.documents) <= scales[:, None] / 2 + 1e-5).all()
    short = TableEmbedder(str(tiny.embedder), options=EmbedOptions(dimensions=16), load=LOAD)(table)
    cut = tiny.documents[:, :16]
    close(short["vector"].to_pylist(), cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_other_tables_are_refused(tiny: Tiny) -> None:
    embedder = TableEmbedder(str(tiny.embedder), load=LOAD)
    with pytest.raises(InputError, match=r"row 1 .* is null"):
        embedder(pa.table({"text": ["a", None]}))
    with pytest.raises(InputError, match="no string column"):
        embedder(pa.table({"number": [1]}))
    with pytest.raises(InputError, match="several string columns"):
        embedder(pa.table({"a": ["a"], "b": ["b"]}))
    with pytest.raises(InputError, match="'vector' already"):
        embedder(embedder(pa.table({"text": TEXTS})))
