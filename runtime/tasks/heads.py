"""What models give that are no dense embedders: scores of pairs, sparse vectors, a vector a token; and the way there.

An `Encoder` has the methods; what they do stands here, over the little of it that the `Computing` protocol names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import LateInteraction, ModelCard, Output

from ..artifact.manifest import TOKEN_STATES
from ..embed_options import EmbedOptions
from ..encodings import Encodings
from ..errors import ArtifactError, InputError
from ..tokenizing.tokenizer import Tokenizer
from .task import Task, check_strings, refuse_long, tokenize

__all__ = [
    "Computing",
    "Preparing",
    "Scores",
    "SparseEmbeddings",
    "TokenEmbeddings",
    "embed_sparse",
    "embed_tokens",
    "prepare_late",
    "prepare_output",
    "prepare_scores",
    "prepare_sparse",
    "prepare_states",
    "prepare_tokens",
    "require",
    "score",
    "to_sparse",
]

#: The method of `Encoder` for each output, for messages.
METHODS: Mapping[Output, str] = MappingProxyType(
    {"vectors": "embed", "scores": "score", "sparse": "embed_sparse", "token_vectors": "embed_tokens"}
)

#: Bytes of dense rows that exist at once on the way to sparse ones: 1,024 texts with BERT's vocabulary.
DENSE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Scores:
    """What a reranker says of a query and some documents.

    Attributes:
        scores: float32, (n, labels), in the order of the documents; the card names the labels.
        tokens: tokens that the model saw of each pair, special ones included, int64, (n,).
        dropped: tokens that truncation cut from each pair, int32, (n,).
    """

    scores: NDArray[np.float32]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class SparseEmbeddings:
    """Weights of the vocabulary's tokens, those above zero.

    Attributes:
        indices: token ids, rising within a text, int32, (weights,).
        values: their weights, float32, (weights,).
        offsets: where each text's weights begin and the last one's end, int64, (n + 1,).
        tokens: tokens that the model saw of each text, special ones included, int64, (n,).
        dropped: tokens that truncation cut from each text, int32, (n,).
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
    """A vector for each token that counts.

    Attributes:
        vectors: float32, (vectors, dimension), all texts' in a row.
        offsets: where each text's vectors begin and the last one's end, int64, (n + 1,).
        tokens: tokens that the model saw of each text, special and expansion ones included, int64, (n,).
        dropped: tokens that truncation cut from each text, int32, (n,).
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Preparing(Protocol):
    """What preparing needs of an `Encoder`."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def tokenizer(self) -> Tokenizer: ...


class Computing(Preparing, Protocol):
    """What this file needs of an `Encoder`."""

    def compute(self, encodings: Encodings) -> NDArray[np.float32]: ...


def require(card: ModelCard, output: Output) -> None:
    """
    Raises:
        InputError: the model gives something else; the message names the method to use.
    """
    if card.output != output:
        raise InputError(
            f"{card.name} gives {card.output.replace('_', ' ')}, not {output.replace('_', ' ')}: "
            f"use `{METHODS[card.output]}` instead of `{METHODS[output]}`"
        )


def prepare_output(
    encoder: Preparing, texts: Sequence[str], options: EmbedOptions, query: str | None, *, states: bool
) -> Task:
    """What `Encoder.prepare_output` does.

    Args:
        encoder: whose card says which output.
        texts: any number.
        options: input type and overflow.
        query: for rerankers.
        states: whether the graph gives token states.

    Raises:
        InputError: there is no such output, or texts or options cannot be used.
    """
    output = encoder.card.output
    options.prompt(encoder.card)
    if query is not None or output == "scores":
        task = prepare_scores(encoder, query or "", texts)
        if options.overflow == "refuse":
            refuse_long(task.encodings, encoder.card)
        return task
    if output == "sparse":
        return prepare_sparse(encoder, texts, options)
    if output == "token_vectors":
        return prepare_tokens(encoder, texts, options)
    if not states:
        raise InputError(f"this variant of {encoder.card.name} gives one vector a text and no states of tokens")
    return prepare_states(encoder, texts, options)


def score(encoder: Computing, query: str, documents: Sequence[str]) -> Scores:
    """Scores each document with the query before it.

    Raises:
        InputError: the model is no reranker, or a text is no valid Unicode string.
    """
    task = prepare_scores(encoder, query, documents)
    scores: Scores = task.finish(encoder.compute(task.encodings))
    return scores


def prepare_scores(encoder: Preparing, query: str, documents: Sequence[str]) -> Task:
    """The pairs to compute; the task gives `Scores`. Raises as `score`."""
    require(encoder.card, "scores")
    check_strings(documents)
    encodings = encoder.tokenizer.encode_pairs([query] * len(documents), documents)
    return Task(encodings, None, lambda values: Scores(values, encodings.lengths, encodings.dropped))


def embed_sparse(encoder: Computing, texts: Sequence[str], input_type: str | None) -> SparseEmbeddings:
    """Sparse vectors; some texts at a time, since the dense rows between are as wide as the vocabulary.

    Raises:
        InputError: the model gives no sparse vectors, or texts or input type cannot be used.
    """
    encodings = prepare_sparse(encoder, texts, EmbedOptions(input_type=input_type)).encodings
    size = max(1, DENSE_BYTES // (4 * encoder.card.dimension))
    parts = [
        to_sparse(encoder.compute(encodings.select(np.arange(start, min(start + size, len(encodings))))))
        for start in range(0, len(encodings), size)
    ] or [to_sparse(np.zeros((0, encoder.card.dimension), np.float32))]
    counts = np.concatenate([np.diff(offsets) for _, _, offsets in parts])
    return SparseEmbeddings(
        np.concatenate([indices for indices, _, _ in parts]),
        np.concatenate([values for _, values, _ in parts]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        encodings.lengths,
        encodings.dropped,
    )


def prepare_sparse(encoder: Preparing, texts: Sequence[str], options: EmbedOptions) -> Task:
    """The texts to compute; the task gives `SparseEmbeddings`. The rows between are dense: bound the texts by that.

    Raises:
        InputError: as `embed_sparse`.
    """
    require(encoder.card, "sparse")
    encodings = _tokenize(encoder, texts, options)
    return Task(
        encodings, None, lambda values: SparseEmbeddings(*to_sparse(values), encodings.lengths, encodings.dropped)
    )


def _tokenize(encoder: Preparing, texts: Sequence[str], options: EmbedOptions) -> Encodings:
    check_strings(texts)
    return tokenize(encoder.tokenizer, encoder.card, texts, options)


def to_sparse(rows: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Indices and values of what is not zero, (weights,), and the offsets of each row, (n + 1,)."""
    which, indices = np.nonzero(rows)
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.bincount(which, minlength=len(rows)), out=offsets[1:])
    return indices.astype(np.int32), rows[which, indices], offsets


def embed_tokens(encoder: Computing, texts: Sequence[str], input_type: str | None) -> TokenEmbeddings:
    """Vectors of tokens: queries are filled up, and skipped tokens left out, as the card says.

    Args:
        encoder: a ColBERT model.
        texts: any number.
        input_type: "query" is a query, every other one a document.

    Raises:
        InputError: the model gives no token vectors, or texts or input type cannot be used.
    """
    task = prepare_tokens(encoder, texts, EmbedOptions(input_type=input_type))
    embeddings: TokenEmbeddings = task.finish(encoder.compute(task.encodings))
    return embeddings


def prepare_tokens(encoder: Preparing, texts: Sequence[str], options: EmbedOptions) -> Task:
    """The texts to compute; the task gives `TokenEmbeddings`. Raises as `embed_tokens`."""
    require(encoder.card, "token_vectors")
    late = encoder.card.late_interaction or _nothing_special(encoder.card)
    role = "query" if options.input_type == "query" else "document"
    encodings = prepare_late(_tokenize(encoder, texts, options), encoder.tokenizer, late, role)
    if options.overflow == "refuse":
        refuse_long(encodings, encoder.card)
    ids = [encoder.tokenizer.token_id(token) for token in late.skipped] if role in late.skipped_in else []
    kept = ~np.isin(encodings.ids, np.array([token for token in ids if token is not None], np.int32))
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])

    def finish(values: NDArray[np.float32]) -> TokenEmbeddings:
        vectors = values if kept.all() else values[kept]
        return TokenEmbeddings(vectors, before[encodings.offsets], encodings.lengths, encodings.dropped)

    return Task(encodings, None, finish, by_token=True)


def prepare_states(encoder: Preparing, texts: Sequence[str], options: EmbedOptions) -> Task:
    """Texts whose tokens' states, which an embedder otherwise averages, are the answer: `TokenEmbeddings` of every token.

    Args:
        encoder: whose graph gives `token_states`.
        texts: any number.
        options: input type and overflow.

    Raises:
        InputError: texts or input type cannot be used.
    """
    encodings = _tokenize(encoder, texts, options)
    return Task(
        encodings,
        TOKEN_STATES,
        lambda values: TokenEmbeddings(values, encodings.offsets, encodings.lengths, encodings.dropped),
        by_token=True,
    )


def prepare_late(encodings: Encodings, tokenizer: Tokenizer, late: LateInteraction, role: str) -> Encodings:
    """Cuts texts to what their role allows, and fills queries up.

    Args:
        encodings: texts with their special tokens.
        tokenizer: that made them.
        late: the card's.
        role: `query` or `document`.

    Raises:
        ArtifactError: the tokenizer lacks the token to fill up with.
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


def _nothing_special(card: ModelCard) -> LateInteraction:
    return LateInteraction(query_tokens=card.max_tokens, document_tokens=card.max_tokens)
