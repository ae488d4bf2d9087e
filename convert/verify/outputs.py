"""Results of an artifact on the texts of a verification, through the same methods as its users call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks.heads import SparseEmbeddings, encode_scored, prepare_late
from fletcher.runtime.tasks.static_queries import encode_static, takes_static

from .case import Case

__all__ = ["TokenRow", "Values", "compute_alone", "compute_together", "tokenize"]

#: Result for one text: (dimension,), or (tokens, dimension).
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Token ids of one text by the artifact.

    Attributes:
        ids: token ids; empty if the artifact refuses the text.
        types: token types.
        dropped: number of tokens that truncation cut.
        refused: reason why the artifact refuses the text; empty if it does not.
    """

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()
    dropped: int = 0
    refused: str = ""


def tokenize(encoder: Encoder, case: Case) -> TokenRow:
    """Return the artifact's token ids of a text, with expansion tokens of a ColBERT query."""
    try:
        if case.query is not None:
            encodings = encode_scored(encoder.tokenizer, encoder.card, [case.query], [case.text])
        elif takes_static(encoder.card, options := EmbedOptions(input_type=case.input_type)):
            encodings = encode_static(encoder.tokenizer, encoder.card, [case.text], options)
            if not encodings.num_tokens:
                return TokenRow(refused="it has no token")
        else:
            encodings = encoder.tokenize([case.text], case.input_type)
        late = encoder.card.late_interaction
        if late is not None:
            encodings = prepare_late(encodings, encoder.tokenizer, late, case.input_type)
    except InputError as error:
        return TokenRow(refused=str(error))
    return TokenRow(tuple(encodings.ids.tolist()), tuple(encodings.types.tolist()), int(encodings.dropped[0]))


def compute_alone(encoder: Encoder, case: Case) -> Values:
    """Return the result of a text in a call of its own."""
    return compute_together(encoder, [case])[0]


def compute_together(encoder: Encoder, cases: Sequence[Case]) -> list[Values]:
    """Return the results of texts, those of the same input type in one call."""
    order = sorted(range(len(cases)), key=lambda index: (cases[index].input_type, cases[index].query or ""))
    results: list[Values | None] = [None] * len(cases)
    for (kind, query), group in groupby(order, key=lambda index: (cases[index].input_type, cases[index].query)):
        indices = list(group)
        for index, values in zip(indices, _call(encoder, [cases[i].text for i in indices], kind, query), strict=True):
            results[index] = values
    return [values for values in results if values is not None]


def _call(encoder: Encoder, texts: Sequence[str], kind: str, query: str | None) -> list[Values]:
    match encoder.card.output:
        case "scores":
            return list(encoder.score(query or "", texts).scores)
        case "sparse":
            return _dense(encoder.embed_sparse(texts, input_type=kind), encoder.dimension)
        case "token_vectors":
            found = encoder.embed_tokens(texts, input_type=kind)
            return np.split(found.vectors, found.offsets[1:-1])
        case _:
            return list(np.asarray(encoder.embed(texts, input_type=kind).vectors, np.float32))


def _dense(sparse: SparseEmbeddings, dimension: int) -> list[Values]:
    rows = np.zeros((len(sparse), dimension), np.float32)
    for row, (start, end) in enumerate(zip(sparse.offsets, sparse.offsets[1:], strict=False)):
        rows[row, sparse.indices[start:end]] = sparse.values[start:end]
    return list(rows)
