"""Polars and DuckDB: vectors and scores of columns, with nulls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("polars")
pytest.importorskip("duckdb")

import duckdb
import polars as pl

from fletcher.integrations import polars as fletcher_polars
from fletcher.integrations.duckdb import register_embedder, register_reranker
from fletcher.integrations.model import open_model

from ...clients.reference import DOCUMENTS, QUERY
from ..conftest import TEXTS, Tiny, close

pytestmark = pytest.mark.slow


def test_expressions_of_polars(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    model = open_model(**sources["embedder"])
    frame = pl.DataFrame({"text": TEXTS, "n": [1, 2, 3]})
    for made in (
        frame.with_columns(vector=fletcher_polars.embed("text", model)),
        frame.lazy().with_columns(vector=fletcher_polars.embed(pl.col("text"), model)).collect(),
    ):
        assert made.schema["vector"] == pl.Array(pl.Float32, 32)
        close(made["vector"].to_numpy(), tiny.documents)
    queries = frame.select(fletcher_polars.embed(pl.col("text").str.strip_chars(), model, "query"))
    close(queries["text"].to_numpy(), tiny.queries)
    assert frame.lazy().select(fletcher_polars.embed("text", model)).collect_schema()["text"] == pl.Array(
        pl.Float32, 32
    )


def test_nulls_of_polars_stay_null(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    model, reranker = open_model(**sources["embedder"]), open_model(**sources["reranker"])
    made = pl.DataFrame({"text": [None, *TEXTS, None]}).select(fletcher_polars.embed("text", model))
    assert made["text"].is_null().to_list() == [True, False, False, False, True]
    close(made["text"].drop_nulls().to_numpy(), tiny.documents)
    assert made.schema["text"] == pl.Array(pl.Float32, 32)
    for texts in ([], [None]):
        empty = pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(fletcher_polars.embed("text", model))
        assert empty["text"].to_list() == texts
    scores = pl.DataFrame({"text": [*DOCUMENTS, None]}).select(fletcher_polars.score(QUERY, "text", reranker))
    close(scores["text"][:-1].to_numpy(), tiny.scores)
    assert scores["text"][-1] is None


def test_an_error_of_the_model_names_its_reason_in_polars(tiny: Tiny) -> None:
    model = open_model(tiny.embedder)
    with pytest.raises(pl.exceptions.ComputeError, match="OptionError: input_type is 'unknown'"):
        pl.DataFrame({"text": TEXTS}).select(fletcher_polars.embed("text", model, "unknown"))


def test_functions_of_duckdb(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    connection = duckdb.connect()
    register_embedder(connection, open_model(**sources["embedder"]))
    connection.execute("CREATE TABLE texts AS SELECT unnest(?::VARCHAR[]) AS text", [TEXTS])
    made = connection.execute("SELECT embed(text) AS vector, embed_query(text) AS query FROM texts")
    assert [str(column[1]) for column in made.description] == ["FLOAT[32]", "FLOAT[32]"]
    rows = made.fetchall()
    close([row[0] for row in rows], tiny.documents)
    close([row[1] for row in rows], tiny.queries)
    found = connection.execute(
        "SELECT text, array_inner_product(embed(text), embed_query(?)) AS score FROM texts ORDER BY score DESC",
        [TEXTS[0]],
    ).fetchall()
    right = tiny.documents @ tiny.queries[0]
    assert [text for text, _ in found] == [TEXTS[index] for index in (-right).argsort()]
    close([score for _, score in found], sorted(right, reverse=True))


def test_many_rows_and_nulls_of_duckdb(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    connection = duckdb.connect()
    register_embedder(connection, open_model(**sources["embedder"]), "vectorize")
    rows = connection.execute(
        "SELECT i, vectorize(CASE WHEN i % 4 < 3 THEN ($texts)[i % 4 + 1] END) FROM range(5000) AS r(i) ORDER BY i",
        {"texts": TEXTS},
    ).fetchall()
    assert [row for row, vector in rows if vector is None] == list(range(3, 5000, 4))
    close([vector for row, vector in rows[:3]], tiny.documents)
    close([vector for row, vector in rows[-4:-1]], tiny.documents)


def test_scores_of_duckdb(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    connection = duckdb.connect()
    register_reranker(connection, open_model(**sources["reranker"]))
    rows = connection.execute(
        "SELECT text, rerank_score(?, text) FROM (SELECT unnest(?::VARCHAR[]) AS text)", [QUERY, [*DOCUMENTS, None]]
    ).fetchall()
    assert rows[-1] == (None, None)
    close([score for _, score in rows[:-1]], tiny.scores)
    assert np.isfinite(tiny.scores).all()
