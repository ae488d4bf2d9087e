"""Outputs other than one dense vector per text: scores of pairs, sparse vectors, and vectors of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import LateInteraction, LogitScore, ModelCard, Output

from ..artifact.manifest import TOKEN_STATES
from ..artifact.outputs import BY_TOKEN
from ..encodings import Encodings
from ..errors import ArtifactError, InputError
from ..inputs import Inputs, Pairs, Texts
from ..model_info import require_output
from ..options.embed import EmbedOptions
from ..tokenizing.templates import encode_templated
from ..tokenizing.tokenizer import Tokenizer
from .task import Task, refuse_long, tokenize

__all__ = [
    "Scores",
    "SparseEmbeddings",
    "TokenEmbeddings",
    "compute_sparse",
    "encode_scored",
    "prepare_head",
    "prepare_late",
    "sparse_texts",
    "to_sparse",
]

#: Largest size in bytes of the dense rows from which sparse vectors are made at a time: 1,024 texts with BERT's vocabulary.
DENSE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores that a reranker or a classifier gives to pairs of texts, or to texts.

    Attributes:
        scores: scores in the order of the pairs or texts, float32, (n, labels); the card names the labels.
        tokens: number of tokens of each pair that the model processed, special tokens included, int64, (n,).
        dropped: number of tokens that truncation cut from each pair, int32, (n,).
    """

    scores: NDArray[np.float32]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class SparseEmbeddings:
    """Weights of the vocabulary's tokens for each text. Weights of zero are left out.

    Attributes:
        indices: token ids, ascending within a text, int32, (weights,).
        values: weights of these tokens, float32, (weights,).
        offsets: index of each text's first weight, and at the end the number of all weights, int64, (n + 1,).
        tokens: number of tokens of each text that the model processed, special tokens included, int64, (n,).
        dropped: number of tokens that truncation cut from each text, int32, (n,).
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    offsets: NDArray[np.int64]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, slots=True)
class TokenEmbeddings:
    """Vectors of tokens, without the tokens that the model skips.

    Attributes:
        vectors: vectors of all texts, one text after the other, float32, (vectors, dimension).
        offsets: index of each text's first vector, and at the end the number of all vectors, int64, (n + 1,).
        tokens: number of tokens of each text that the model processed, special and expansion tokens included, int64, (n,).
        dropped: number of tokens that truncation cut from each text, int32, (n,).
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def prepare_head(
    tokenizer: Tokenizer, card: ModelCard, inputs: Inputs, options: EmbedOptions, output: Output, *, has_states: bool
) -> Task:
    """Prepare an output other than vectors of texts.

    Args:
        tokenizer: the model's tokenizer.
        card: the model's card.
        inputs: pairs, or single texts of a classifier, for `scores`, else texts.
        options: options of embedding, of which input type and overflow are used. For pairs, overflow is `truncate` or
            `refuse`.
        output: `scores`, `sparse` or `token_vectors`. An embedder's token vectors are the states of its tokens.
        has_states: whether the graph gives the states of an embedder's tokens.

    Returns:
        A task whose `finish` gives `Scores`, `SparseEmbeddings` or `TokenEmbeddings`.

    Raises:
        InputError: the model does not give this output, or inputs or options cannot be used.
    """
    options.prompt(card)
    if isinstance(inputs, Pairs):
        require_output(card, "scores")
        return _prepare_scores(tokenizer, card, inputs, options)
    if not isinstance(inputs, Texts):
        raise InputError(f"token ids give vectors only, not {output.replace('_', ' ')}: send texts")
    if output == "scores":
        require_output(card, "scores")
        if isinstance(card.logit_score, LogitScore):
            raise InputError(f"{card.name} scores pairs of a query and a document, not single texts: send pairs")
        encodings = tokenize(tokenizer, card, inputs.texts, options)
        return Task(encodings, None, lambda values: Scores(values, encodings.lengths, encodings.dropped))
    if output == "sparse":
        require_output(card, "sparse")
        return _prepare_sparse(tokenizer, card, inputs.texts, options)
    if card.output != "vectors":
        require_output(card, "token_vectors")
        return _prepare_tokens(tokenizer, card, inputs.texts, options)
    if not has_states:
        raise InputError(f"this variant of {card.name} gives one vector per text and no states of tokens")
    return _prepare_states(tokenizer, card, inputs.texts, options)


def _prepare_scores(tokenizer: Tokenizer, card: ModelCard, pairs: Pairs, options: EmbedOptions) -> Task:
    """Return the task of a reranker, which gives `Scores`."""
    encodings = encode_scored(tokenizer, card, pairs.queries, pairs.documents)
    if options.overflow == "refuse":
        refuse_long(encodings, card, pairs.documents)
    return Task(encodings, None, lambda values: Scores(values, encodings.lengths, encodings.dropped))


def encode_scored(tokenizer: Tokenizer, card: ModelCard, queries: Sequence[str], documents: Sequence[str]) -> Encodings:
    """Tokenize pairs as the card of a reranker says: inside its chat template, or as two texts.

    Raises:
        InputError: an element is not a string, or is not valid Unicode.
    """
    score = card.logit_score
    if isinstance(score, LogitScore) and score.template is not None:
        return encode_templated(tokenizer, score.template, queries, documents)
    return tokenizer.encode_pairs(queries, documents)


def _prepare_sparse(tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], options: EmbedOptions) -> Task:
    """Return the task of a SPLADE model, which makes `SparseEmbeddings` of dense rows."""
    encodings = tokenize(tokenizer, card, texts, options)
    return Task(
        encodings, None, lambda values: SparseEmbeddings(*to_sparse(values), encodings.lengths, encodings.dropped)
    )


def sparse_texts(dimension: int) -> int:
    """Return the number of texts whose dense rows, float32, (texts, dimension), take at most `DENSE_BYTES`."""
    return max(1, DENSE_BYTES // (4 * dimension))


def compute_sparse(
    compute: Callable[[Encodings], NDArray[np.float32]], encodings: Encodings, dimension: int
) -> SparseEmbeddings:
    """Compute sparse vectors of any number of texts.

    A limited number of texts is computed at a time, because their dense rows are as wide as the vocabulary.

    Args:
        compute: function that returns dense rows, float32, (texts, dimension).
        encodings: the texts' token ids.
        dimension: the vocabulary's size.
    """
    size = sparse_texts(dimension)
    parts = [
        to_sparse(compute(encodings.select(np.arange(start, min(start + size, len(encodings))))))
        for start in range(0, len(encodings), size)
    ] or [to_sparse(np.zeros((0, dimension), np.float32))]
    counts = np.concatenate([np.diff(offsets) for _, _, offsets in parts])
    return SparseEmbeddings(
        np.concatenate([indices for indices, _, _ in parts]),
        np.concatenate([values for _, values, _ in parts]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        encodings.lengths,
        encodings.dropped,
    )


def to_sparse(rows: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Return the elements that are not zero: their columns and values, (weights,), and the offsets of the rows, (n + 1,)."""
    row_of, indices = np.nonzero(rows)
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=len(rows)), out=offsets[1:])
    return indices.astype(np.int32), rows[row_of, indices], offsets


def _prepare_tokens(tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], options: EmbedOptions) -> Task:
    """Return the task of a ColBERT model, which gives `TokenEmbeddings`.

    Queries (input type `query`) are extended with filler tokens, and skipped tokens are left out, according to the card.
    """
    late = card.late_interaction or _default_late_interaction(card)
    role = "query" if options.purpose(card) == "query" else "document"
    encodings = prepare_late(tokenize(tokenizer, card, texts, options), tokenizer, late, role)
    if options.overflow == "refuse":
        refuse_long(encodings, card, texts)
    ids = [tokenizer.token_id(token) for token in late.skipped] if role in late.skipped_in else []
    counts = ~np.isin(encodings.ids, np.array([token for token in ids if token is not None], np.int32))
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def finish(values: NDArray[np.float32]) -> TokenEmbeddings:
        vectors = values if counts.all() else values[counts]
        return TokenEmbeddings(vectors, before[encodings.offsets], encodings.lengths, encodings.dropped)

    return Task(encodings, None, finish, rows=BY_TOKEN)


def _prepare_states(tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], options: EmbedOptions) -> Task:
    """Return the task of an embedder's token states, which gives `TokenEmbeddings` of all tokens."""
    encodings = tokenize(tokenizer, card, texts, options)
    return Task(
        encodings,
        TOKEN_STATES,
        lambda values: TokenEmbeddings(values, encodings.offsets, encodings.lengths, encodings.dropped),
        rows=BY_TOKEN,
    )


def prepare_late(encodings: Encodings, tokenizer: Tokenizer, late: LateInteraction, role: str) -> Encodings:
    """Cut texts to the length that their role allows, and extend queries with filler tokens.

    Args:
        encodings: texts with their special tokens.
        tokenizer: the tokenizer that made them.
        late: the card's settings of late interaction.
        role: `query` or `document`.

    Raises:
        ArtifactError: the tokenizer lacks the filler token.
    """
    limit = late.query_tokens if role == "query" else late.document_tokens
    encodings = tokenizer.cut(encodings, limit)
    expansion = late.expansion
    if role != "query" or expansion is None:
        return encodings
    filler = tokenizer.token_id(expansion.token)
    if filler is None:
        raise ArtifactError(f"the tokenizer lacks the token {expansion.token!r}: convert the checkpoint again")
    lengths = np.maximum(encodings.lengths, expansion.length)
    offsets = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    ids = np.full(offsets[-1], filler, np.int32)
    shift = np.repeat(offsets[:-1] - encodings.offsets[:-1], encodings.lengths)
    ids[np.arange(encodings.num_tokens) + shift] = encodings.ids
    return Encodings(ids, offsets, encodings.dropped)


def _default_late_interaction(card: ModelCard) -> LateInteraction:
    return LateInteraction(query_tokens=card.max_tokens, document_tokens=card.max_tokens)
