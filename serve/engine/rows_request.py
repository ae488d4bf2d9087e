"""`RowsRequest`: a request whose texts another process has tokenized. Its answer is the graph's values."""

from __future__ import annotations

from dataclasses import dataclass

from fletcher.runtime import Encodings
from fletcher.runtime.artifact.outputs import ValueRows

from .terms import USUAL, Terms

__all__ = ["RowsRequest"]


@dataclass(frozen=True, slots=True)
class RowsRequest:
    """Token ids for a model.

    Attributes:
        encodings: the rows, at least one.
        output: name of the graph's output; None is the first.
        rows: rows of values that a text has; None is one row.
        requests: number of clients' requests that the rows come from.
        terms: priority, client and deadline.
    """

    encodings: Encodings
    output: str | None = None
    rows: ValueRows | None = None
    requests: int = 1
    terms: Terms = USUAL
