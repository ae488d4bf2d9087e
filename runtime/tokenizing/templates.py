"""Tokenization of pairs inside the chat template of a reranker that is a language model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import PairTemplate

from ..encodings import Encodings
from ..errors import InputError
from .tokenizer import Tokenizer

__all__ = ["encode_templated", "render"]

#: Stand-ins for the texts of a pair whose tokens differ, so that the tokens after them are the template's.
FILLERS = ("0", "1 2 3 4")


def render(template: PairTemplate, query: str, document: str) -> str:
    """Return a pair inside its template."""
    first, second = (query, document) if template.query_first else (document, query)
    return f"{template.before}{first}{template.between}{second}{template.after}"


def encode_templated(
    tokenizer: Tokenizer, template: PairTemplate, queries: Sequence[str], documents: Sequence[str]
) -> Encodings:
    """Tokenize pairs inside a template. Of a pair that is too long, the end is cut before the template's last tokens.

    Special tokens in a text count as such, as in transformers' `apply_chat_template`.
    Source: `_restore_chat_template_suffix` of sentence-transformers' base/modules/transformer.py.

    Args:
        tokenizer: tokenizer that adds no special tokens.
        template: text around a pair.
        queries: query of each pair.
        documents: document of each pair.

    Raises:
        InputError: an element is not a string, or is not valid Unicode.
    """
    for text in (*queries, *documents):
        if not isinstance(text, str):
            raise InputError(f"a text is {type(text).__name__}, not a string")
    texts = [render(template, *pair) for pair in zip(queries, documents, strict=True)]
    encodings = tokenizer.encode(texts, side="neither")
    excess = np.maximum(encodings.lengths - tokenizer.max_tokens, 0)
    if not excess.any():
        return encodings
    suffix = _suffix(tokenizer, template)
    rows = np.split(encodings.ids, encodings.offsets[1:-1])
    cut = Encodings.from_lists(
        [_cut(row, tokenizer, suffix) if more else row for row, more in zip(rows, excess, strict=True)]
    )
    return Encodings(cut.ids, cut.offsets, excess.astype(np.int32))


def _cut(row: NDArray[np.int32], tokenizer: Tokenizer, suffix: NDArray[np.int32]) -> NDArray[np.int32]:
    limit = tokenizer.max_tokens
    kept = row[-limit:] if tokenizer.side == "left" else row[:limit]
    last = suffix[-limit:]
    return np.concatenate([kept[: limit - len(last)], last])


def _suffix(tokenizer: Tokenizer, template: PairTemplate) -> NDArray[np.int32]:
    """Return the tokens of the template after the pair: those in which two different pairs end."""
    encodings = tokenizer.encode([render(template, filler, filler) for filler in FILLERS], side="neither")
    first, second = (ids[::-1] for ids in np.split(encodings.ids, encodings.offsets[1:-1]))
    shorter = min(len(first), len(second))
    equal = first[:shorter] == second[:shorter]
    count = shorter if equal.all() else int(np.argmin(equal))
    return first[:count][::-1] if 0 < count < shorter else first[:0]
