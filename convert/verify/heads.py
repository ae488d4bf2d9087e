"""Verification of rerankers, SPLADE and ColBERT models: texts, and comparison of the results.

Each result becomes one row, whose angle and largest difference are compared like a vector's: a document's scores for every
query, a text's weights over the vocabulary, or the token vectors of a text that differ most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.progress import Progress
from fletcher.runtime import Encoder, Encodings
from fletcher.runtime.tasks.heads import prepare_late

from ..reference.heads import HeadReference, TokenizedText
from ..texts import EDGES, SENTENCES, text_of_length
from .comparison import Question, Results, Run
from .report import VariantResult
from .verdicts import Probe, VariantVectors, compare_vectors

__all__ = ["ask_head"]

#: Queries for which each document is scored.
QUERIES = SENTENCES[:3]

#: Number of a text's token vectors that are compared: those furthest from the reference.
WORST_TOKENS = 32

#: Outputs that are not normalized: the last bit of a float32 logit of 10 is 1e-6 already.
UNBOUNDED = ("scores", "sparse")
BATCH_TOLERANCE_LOGITS = 1e-5


@dataclass(frozen=True, slots=True)
class _Case:
    """Input of one run of the model."""

    text: str
    role: str = "document"
    query: str | None = None


def ask_head(reference: HeadReference, card: ModelCard, texts: Sequence[str], progress: Progress) -> Question:
    """Compute the reference's results.

    Args:
        reference: the model.
        card: card of the artifact.
        texts: the user's texts, compared besides the built-in ones.
        progress: receives messages and counts.
    """
    cases = _cases(card, reference.count_tokens, texts)
    probes = [_probe(case) for case in cases]
    rows = [reference.tokenize(case.text, query=case.query, role=case.role) for case in cases]
    expected = []
    with progress.count("reference", total=len(rows), units=("texts", "tokens")) as counter:
        for row in rows:
            expected.append(reference.compute(row))
            counter.advance(1, len(row.ids))

    def verdict(run: Run) -> VariantResult:
        precision = run.variant.precision
        (alone, batched, right), cases_of_rows = _tables(card, [run.alone, run.batched, expected])
        return compare_vectors(
            VariantVectors(run.variant, run.provider, run.lengths[cases_of_rows], alone, batched),
            right,
            [probes[index] for index in cases_of_rows],
            msgspec.structs.replace(card, accuracy={precision: run.variant.tolerance}),
            batch_tolerance=BATCH_TOLERANCE_LOGITS if precision == "fp32" and card.output in UNBOUNDED else None,
        )

    return Question(
        probes,
        [row.ids for row in rows],
        lambda encoder: Encodings.concatenate([_tokenize(encoder, case) for case in cases]),
        lambda: _from_rows(rows),  # other token ids have results of another shape
        verdict,
        reference.tools,
    )


def _cases(card: ModelCard, count_tokens: Callable[[str], int], texts: Sequence[str]) -> list[_Case]:
    """Return edge cases, sentences in many languages, lengths around powers of two and the limit, and the user's texts."""
    limit = card.max_tokens
    lengths = sorted({2**power + step for power in range(2, 14) for step in (-1, 0, 1)} | {limit - 1, limit})
    sized = [text_of_length(length, count_tokens, start=length) for length in lengths if length <= limit]
    beyond = [text_of_length(length, count_tokens, start=length) for length in (limit + 1, 2 * limit)]
    all_texts = list(dict.fromkeys((*EDGES, *SENTENCES, *sized, *beyond, *texts)))
    if card.output == "scores":
        return [_Case(text, query=query) for text in all_texts for query in QUERIES]
    if card.output == "token_vectors" or card.prompts:
        return [_Case(text, role) for text in all_texts for role in ("query", "document")]
    return [_Case(text) for text in all_texts]


def _probe(case: _Case) -> Probe:
    return Probe(case.text, "pair" if case.query is not None else case.role)


def _tokenize(encoder: Encoder, case: _Case) -> Encodings:
    if case.query is not None:
        return encoder.tokenizer.encode_pairs([case.query], [case.text])
    encodings = encoder.tokenize([case.text], case.role)
    late = encoder.card.late_interaction
    return encodings if late is None else prepare_late(encodings, encoder.tokenizer, late, case.role)


def _from_rows(rows: Sequence[TokenizedText]) -> Encodings:
    encodings = Encodings.from_lists([row.ids for row in rows])
    types = [row.types if row.types is not None else (0,) * len(row.ids) for row in rows]
    return Encodings(encodings.ids, encodings.offsets, encodings.dropped, np.concatenate(types).astype(np.int32))


def _tables(card: ModelCard, results: Sequence[Results]) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Return the results alone, in a batch, and expected as tables (rows, width), and the case of each row."""
    if card.output == "scores":
        tables = [np.stack(of_each).reshape(-1, len(QUERIES) * card.dimension) for of_each in results]
        return tables, np.arange(0, len(results[0]), len(QUERIES))
    if card.output == "sparse":
        return [np.stack(of_each) for of_each in results], np.arange(len(results[0]))
    tables = [np.empty((len(of_each), WORST_TOKENS * card.dimension), np.float32) for of_each in results]
    for index, parts in enumerate(zip(*results, strict=True)):
        alone, batched, expected = parts
        apart = np.maximum(np.abs(batched - expected), np.abs(batched - alone)).max(axis=1)
        # The worst of many tokens; a few tokens are repeated until they fill the row.
        worst = np.resize(np.argsort(-np.nan_to_num(apart, nan=np.inf), kind="stable")[:WORST_TOKENS], WORST_TOKENS)
        for table, part in zip(tables, parts, strict=True):
            table[index] = part[worst].reshape(-1)
    return tables, np.arange(len(results[0]))
