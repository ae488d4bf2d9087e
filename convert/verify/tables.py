"""Tables of results whose rows are compared like vectors, whatever a model gives.

A reranker's document has one row: its scores for several queries. A ColBERT model's text has one row: the token vectors that
differ most. A result of another shape than the reference's becomes NaN, which fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import Output

from .outputs import Values
from .texts import QUERIES_EACH

__all__ = ["make_tables"]

#: Number of a text's token vectors that are compared: those furthest from the reference.
WORST_TOKENS = 32

Table = NDArray[np.float32]


def make_tables(
    output: Output, alone: Sequence[Values], together: Sequence[Values], expected: Sequence[Values]
) -> tuple[Table, Table, Table, NDArray[np.int64]]:
    """Return the results alone, in a batch, and expected as tables (rows, width), and the first text of each row.

    Args:
        output: output of the model.
        alone: results of the texts in calls of their own.
        together: results of the texts in a batch.
        expected: the reference's results.
    """
    parts = [
        (_like(one, right), _like(other, right), right)
        for one, other, right in zip(alone, together, expected, strict=True)
    ]
    texts = np.arange(len(parts))
    if output == "token_vectors":
        parts = [_worst_tokens(*part) for part in parts]
    first, second, third = (np.stack([part[index] for part in parts]).astype(np.float32) for index in range(3))
    if output == "scores":
        first, second, third = (table.reshape(len(parts) // QUERIES_EACH, -1) for table in (first, second, third))
        texts = texts[::QUERIES_EACH]
    return first, second, third, texts


def _like(values: Values, expected: Values) -> Values:
    """Return the values, or NaN if their shape is another one than expected."""
    return values if values.shape == expected.shape else np.full_like(expected, np.nan)


def _worst_tokens(alone: Values, together: Values, expected: Values) -> tuple[Values, Values, Values]:
    """Return the token vectors that differ most, as one row; a few tokens are repeated until they fill the row."""
    if not len(expected):
        expected = alone = together = np.zeros((1, expected.shape[1]), np.float32)
    apart = np.maximum(np.abs(together - expected), np.abs(together - alone)).max(axis=1)
    order = np.argsort(-np.nan_to_num(apart, nan=np.inf), kind="stable")[:WORST_TOKENS]
    worst = np.resize(order, WORST_TOKENS)
    return alone[worst].reshape(-1), together[worst].reshape(-1), expected[worst].reshape(-1)
