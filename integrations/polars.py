"""Polars' expressions from texts to vectors and to scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import polars as pl

from fletcher.model_zoo.errors import FletcherError

from .model import Model

__all__ = ["embed", "score"]


def embed(texts: pl.Expr | str, model: Model, input_type: str = "document") -> pl.Expr:
    """Return an expression of the vectors of texts.

    A text that comes several times in a batch is computed once. A null gives a null.

    Args:
        texts: an expression of strings, or the name of a column.
        model: model of `open_model`.
        input_type: `document`, `query` or another input type of the model.

    Returns:
        An expression of the type `Array(Float32, dimension)`. Its evaluation raises `ComputeError` with the model's error.
    """
    kind = pl.Array(pl.Float32, model.dimension)

    def vectors(series: pl.Series) -> pl.Series:
        present = series.is_not_null()
        made = np.zeros((len(series), model.dimension), np.float32)
        with _errors():
            made[present.to_numpy()] = model.embed(series.filter(present).to_list(), input_type)
        result = pl.Series(series.name, made, kind)
        return result if present.all() else pl.select(pl.when(present).then(result)).to_series().alias(series.name)

    return _expression(texts).map_batches(vectors, return_dtype=kind, is_elementwise=True)


def score(query: str, documents: pl.Expr | str, model: Model) -> pl.Expr:
    """Return an expression of a reranker's scores of documents for a query. A null gives a null.

    Args:
        query: the query.
        documents: an expression of strings, or the name of a column.
        model: reranker of `open_model`.

    Returns:
        An expression of the type `Float32`. Its evaluation raises `ComputeError` with the error of the model.
    """

    def scores(series: pl.Series) -> pl.Series:
        with _errors():
            found = iter(model.score(query, series.drop_nulls().to_list()).tolist())
        return pl.Series(series.name, [None if text is None else next(found) for text in series], pl.Float32)

    return _expression(documents).map_batches(scores, return_dtype=pl.Float32, is_elementwise=True)


@contextmanager
def _errors() -> Iterator[None]:
    """Raise Fletcher's errors as an error of Polars, which makes an exception of a message and its class anew.

    Raises:
        ComputeError: the model raised an error.
    """
    try:
        yield
    except FletcherError as error:
        raise pl.exceptions.ComputeError(f"{type(error).__name__}: {error}") from error


def _expression(texts: pl.Expr | str) -> pl.Expr:
    return pl.col(texts) if isinstance(texts, str) else texts
