"""Tokenization of pairs inside the template of a reranker that is a language model: as one text, or part by part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import PairParts, PairTemplate

from ..encodings import Encodings
from ..errors import ArtifactError, InputError
from .tokenizer import Tokenizer

__all__ = ["encode_templated", "render"]

#: Stand-ins for the texts of a pair whose tokens differ, so that the tokens after them are the template's.
FILLERS = ("0", "1 2 3 4")


def render(template: PairTemplate, query: str, document: str) -> str:
    """Return a pair inside its template."""
    if isinstance(template.parts, PairParts):
        query, document = template.parts.query + query, template.parts.document + document
    first, second = (query, document) if template.query_first else (document, query)
    return f"{template.before}{first}{template.between}{second}{template.after}"


def encode_templated(
    tokenizer: Tokenizer, template: PairTemplate, queries: Sequence[str], documents: Sequence[str]
) -> Encodings:
    """Tokenize pairs inside a template. Of a pair that is too long, the end is cut before the template's last tokens.

    Special tokens in a text count as such, as in transformers' `apply_chat_template`. A template with parts is tokenized part
    by part, and limits the query, too.
    Source: `_restore_chat_template_suffix` of sentence-transformers' base/modules/transformer.py.

    Args:
        tokenizer: tokenizer that adds no special tokens.
        template: text around a pair.
        queries: query of each pair.
        documents: document of each pair.

    Raises:
        InputError: an element is not a string, or is not valid Unicode.
        ArtifactError: the longest input has no room for a pair between the parts of the template.
    """
    for text in (*queries, *documents):
        if not isinstance(text, str):
            raise InputError(f"a text is {type(text).__name__}, not a string")
    if isinstance(template.parts, PairParts):
        return _encode_parts(tokenizer, template, template.parts, queries, documents)
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


def _encode_parts(
    tokenizer: Tokenizer, template: PairTemplate, parts: PairParts, queries: Sequence[str], documents: Sequence[str]
) -> Encodings:
    """Tokenize the parts of pairs one by one, and cut query and document.

    Of n tokens that the pair may take, a query may have three quarters and a document all; then the document is cut to what
    the query leaves. FlagEmbedding's n is `max_length`, which it lets a pair exceed by the tokens after it, and these follow:
    n is the longest input less twice these tokens.
    Source: `BaseLLMReranker.compute_score_single_gpu` of FlagEmbedding 1.4, inference/reranker/decoder_only/base.py.
    """
    texts = [
        template.before,
        template.between,
        template.after,
        *(parts.query + query for query in queries),
        *(parts.document + document for document in documents),
    ]
    encodings = tokenizer.encode(texts, side="neither")
    before, between, after, *rows = np.split(encodings.ids, encodings.offsets[1:-1])
    longest = tokenizer.max_tokens - 2 * len(after)
    room = tokenizer.max_tokens - len(before) - len(between) - len(after)
    if longest < 2 or room - longest * 3 // 4 < 1:
        raise ArtifactError(
            f"the longest input is {tokenizer.max_tokens} tokens, and the template takes {len(before) + len(between)} before "
            f"and between the texts of a pair and {len(after)} after them: convert with a larger --max-tokens"
        )
    pairs, dropped = [], []
    for query, document in zip(rows[: len(queries)], rows[len(queries) :], strict=True):
        first = _limit(query, longest * 3 // 4, tokenizer)
        second = _limit(document, min(longest, room - len(first)), tokenizer)
        pairs.append(np.concatenate([before, first, between, second, after]))
        dropped.append(len(query) + len(document) - len(first) - len(second))
    joined = Encodings.from_lists(pairs)
    return Encodings(joined.ids, joined.offsets, np.array(dropped, np.int32))


def _limit(row: NDArray[np.int32], limit: int, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return at most `limit` tokens of a text, from the side that the tokenizer keeps."""
    return row[len(row) - min(limit, len(row)) :] if tokenizer.side == "left" else row[:limit]
