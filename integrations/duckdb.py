"""DuckDB's functions from texts to vectors and to scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from .model import Model

__all__ = ["register_embedder", "register_reranker"]


def register_embedder(connection: duckdb.DuckDBPyConnection, model: Model, name: str = "embed") -> None:
    """Add the functions `NAME(text)` for documents and `NAME_query(text)` for queries to a connection.

    DuckDB calls them with the texts of up to 2,048 rows at once. A NULL gives a NULL.

    Args:
        connection: the connection.
        model: model of `open_model`.
        name: name of the functions; they return `FLOAT[dimension]`.

    Raises:
        FletcherError: the model does not describe its vectors.
        duckdb.Error: the connection has a function of that name.
    """
    size = model.dimension
    result = duckdb.array_type(duckdb.sqltype("FLOAT"), size)
    for function, input_type in ((name, "document"), (f"{name}_query", "query")):
        connection.create_function(
            function, _embedder(model, size, input_type), [duckdb.sqltype("VARCHAR")], result, type="arrow"
        )


def _embedder(model: Model, size: int, input_type: str) -> Callable[[Any], Any]:
    """Return a function from Arrow strings to their vectors; DuckDB counts its parameters."""
    kind = pa.list_(pa.float32(), size)

    def vectors(texts: Any) -> Any:
        present, values = _present(texts)
        made = np.zeros((len(present), size), np.float32)
        made[present] = model.embed(values, input_type)
        return pa.FixedSizeListArray.from_arrays(pa.array(made.reshape(-1)), type=kind, mask=pa.array(~present))

    return vectors


def register_reranker(connection: duckdb.DuckDBPyConnection, model: Model, name: str = "rerank_score") -> None:
    """Add the function `NAME(query, text)` of a reranker's scores to a connection. A NULL gives a NULL.

    Args:
        connection: the connection.
        model: reranker of `open_model`.
        name: name of the function; it returns `FLOAT`.

    Raises:
        duckdb.Error: the connection has a function of that name.
    """

    def scores(queries: Any, texts: Any) -> Any:
        present, _ = _present(texts)
        asked = np.array(queries.to_pylist(), object)
        present &= np.array([query is not None for query in asked], bool)
        texts_of = np.array(texts.to_pylist(), object)
        made = np.zeros(len(present), np.float32)
        for query in dict.fromkeys(asked[present].tolist()):
            rows = np.flatnonzero(present & (asked == query))
            made[rows] = model.score(query, texts_of[rows].tolist())
        return pa.array(made, mask=~present)

    connection.create_function(
        name, scores, [duckdb.sqltype("VARCHAR"), duckdb.sqltype("VARCHAR")], duckdb.sqltype("FLOAT"), type="arrow"
    )


def _present(texts: Any) -> tuple[Any, list[str]]:
    """Return which rows are not NULL, bool, (n,), and their texts."""
    values = texts.to_pylist()
    present = np.array([value is not None for value in values], bool)
    return present, [value for value in values if value is not None]
