"""Embedding of texts that are longer than the model's longest input.

Texts are cut into rows before the computation. After it, the rows of each text are combined into one vector.

Windows: each row is embedded as a separate text. The document's vector is the mean of the rows' vectors, weighted by the
number of document tokens in each row.

Late chunking (arXiv 2409.04701): a row is as much of the document as the model allows, and the states of its tokens are
averaged chunk by chunk. In a document of several rows, the tokens that a row shares with the row before are only context, as
in the paper's `long late chunking`. The special tokens and the prompt at the start belong to the first chunk, the special
tokens at the end to the last chunk. If a document has one row, the mean of all tokens is therefore its vector without
chunking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard

from ..artifact.manifest import TOKEN_STATES
from ..encodings import Chunks, Embeddings, Encodings
from ..options.embed import EmbedOptions
from ..tokenizing.long_text import PIECE
from ..tokenizing.tokenizer import Tokenizer
from .postprocess import normalize
from .task_adapters import with_task

__all__ = ["Folding", "Row", "Rows", "cut_documents"]

#: Tokens of rows that are computed before they are combined. This bounds the memory for documents of any length.
PART_TOKENS = 1 << 16

#: The same for late chunking, in bytes of token states. They fit in the memory that `--memory-limit` leaves besides batches.
PART_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """Place of a row in its document.

    Attributes:
        document: index of the text.
        lead: number of tokens before the document's tokens: special tokens and the prompt's tokens.
        context: number of its document tokens that are also in the row before.
        start: place of its first token in the document.
        end: place behind its last token in the document.
        last: whether it is the document's last row.
    """

    document: int
    lead: int
    context: int
    start: int
    end: int
    last: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to compute.

    Attributes:
        encodings: their token ids.
        output: name of the graph's output; None is the first.
        places: place of each row.
    """

    encodings: Encodings
    output: str | None
    places: Sequence[Row]


def cut_documents(tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], options: EmbedOptions) -> Iterator[Rows]:
    """Cut texts into rows of windows, or into the rows of late chunking.

    A text that fits is one row, the same as without windows. In a longer text every window gets the prompt, because the model
    was trained with the prompt before every input. In late chunking only the first row gets it.

    Args:
        tokenizer: the model's tokenizer.
        card: the model's card.
        texts: texts without prompts.
        options: options whose overflow is `windows` or `late`.

    Yields:
        Rows in the order of the texts, at most about `PART_TOKENS` tokens or `PART_BYTES` of states at a time.

    Raises:
        InputError: a text is not a valid Unicode string, or a window has no room for a token of the text.
    """
    output = TOKEN_STATES if options.overflow == "late" else None
    most = PART_TOKENS if output is None else min(PART_TOKENS, PART_BYTES // (4 * card.dimension))
    ids: list[NDArray[np.int32]] = []
    places: list[Row] = []
    tokens = 0
    for document, text in enumerate(texts):
        for row, place in _rows_of(tokenizer, card, document, text, options):
            ids.append(row)
            places.append(place)
            tokens += len(row)
            if tokens >= most:
                yield Rows(with_task(Encodings.from_lists(ids), card, options), output, places)
                ids, places, tokens = [], [], 0
    if ids:
        yield Rows(with_task(Encodings.from_lists(ids), card, options), output, places)


def _rows_of(
    tokenizer: Tokenizer, card: ModelCard, document: int, text: str, options: EmbedOptions
) -> Iterator[tuple[NDArray[np.int32], Row]]:
    size, overlap, prompt = options.window(card), options.overlap(card), options.prompt(card)
    if len(text) <= PIECE:
        encoding = tokenizer.encode([prompt + text if isinstance(text, str) else text], side="neither")
        if encoding.num_tokens <= size:
            yield encoding.ids, _only_row(tokenizer, document, prompt, encoding.num_tokens)
            return
    lead = tokenizer.plain_ids(prompt.rstrip()) if prompt else np.zeros(0, np.int32)
    later = lead if options.overflow == "windows" else lead[:0]
    start = 0
    waiting: tuple[NDArray[np.int32], Row] | None = None
    # In late chunking only the first row has the prompt. The later rows are cut as if they had it too, so they are a few
    # tokens shorter than necessary.
    for number, row in enumerate(tokenizer.windows(text, size=size, overlap=overlap, lead=lead)):
        if waiting is not None:
            yield waiting
        own = len(row) - tokenizer.num_special - len(lead)
        if number and not len(later):
            row = np.delete(row, slice(tokenizer.num_prefix, tokenizer.num_prefix + len(lead)))
        before = tokenizer.num_prefix + (len(later) if number else len(lead))
        waiting = row, Row(document, before, overlap if number else 0, start, start + own, last=False)
        start += own - overlap
    if waiting is not None:
        row, place = waiting
        yield row, Row(place.document, place.lead, place.context, place.start, place.end, last=True)


def _only_row(tokenizer: Tokenizer, document: int, prompt: str, tokens: int) -> Row:
    prompt_tokens = len(tokenizer.plain_ids(prompt.rstrip())) if prompt else 0
    lead = tokenizer.num_prefix + prompt_tokens
    return Row(document, lead, 0, 0, max(tokens - tokenizer.num_special - prompt_tokens, 0), last=True)


class Folding:
    """Accumulator of computed rows, added in order; it makes one vector of each text."""

    def __init__(self, texts: int, card: ModelCard, options: EmbedOptions) -> None:
        """Start without rows.

        Args:
            texts: number of texts.
            card: the model's card.
            options: options with which the texts were cut.
        """
        self._card = card
        self._options = options
        self._sums = np.zeros((texts, card.dimension), np.float32)
        self._weights = np.zeros(texts, np.int64)
        self._tokens = np.zeros(texts, np.int64)
        self._chunks: list[NDArray[np.float32]] = []
        self._spans: list[tuple[int, int]] = []
        self._counts = np.zeros(texts, np.int64)
        # For late chunking: sum of the states and number of tokens of each chunk of the current document.
        self._open: list[NDArray[np.float32]] = []
        self._open_tokens: list[int] = []

    def add(self, rows: Rows, values: NDArray[np.float32]) -> None:
        """Add the values of the next rows.

        Args:
            rows: the next rows.
            values: float32, (rows, dimension), or the states of their tokens, (tokens, dimension).
        """
        offsets = rows.encodings.offsets.tolist()
        for index, place in enumerate(rows.places):
            self._tokens[place.document] += offsets[index + 1] - offsets[index]
            if rows.output is None:
                self._add_window(place, values[index])
            else:
                self._add_states(place, values[offsets[index] : offsets[index + 1]])

    def result(self) -> Embeddings:
        """Return the vectors, float32 and of full length, with their chunks; no token of the texts was dropped."""
        weights = np.maximum(self._weights, 1).astype(np.float32)
        vectors: NDArray[np.float32] = np.divide(self._sums, weights[:, None])
        offsets = np.zeros(len(self._counts) + 1, np.int64)
        np.cumsum(self._counts, out=offsets[1:])
        chunks = np.stack(self._chunks) if self._chunks else np.zeros((0, self._card.dimension), np.float32)
        if self._card.normalize:
            vectors, chunks = normalize(vectors), normalize(chunks)
        spans = np.array(self._spans, np.int64).reshape(-1, 2)
        return Embeddings(
            vectors, self._tokens, np.zeros(len(vectors), np.int32), chunks=Chunks(chunks, offsets, spans)
        )

    def _add_window(self, place: Row, vector: NDArray[np.float32]) -> None:
        # An empty text has the vector of its special tokens, with weight 1.
        weight = max(place.end - place.start, 1)
        self._sums[place.document] += weight * vector
        self._weights[place.document] += weight
        self._close_chunk(place.document, vector, place.start, place.end)

    def _add_states(self, place: Row, states: NDArray[np.float32]) -> None:
        size = self._options.chunk
        first = 0 if not place.start and not place.context else place.lead + place.context
        end = len(states) if place.last else place.lead + place.end - place.start
        averaged = states[first:end]
        # Index of each averaged token in the document. Tokens before the text count as its first token, tokens behind it as
        # its last.
        numbers = np.arange(first, end) - place.lead + place.start
        chunk_of = np.clip(numbers, 0, max(place.end - 1, 0)) // size
        starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
        for chunk, sums, count in zip(
            chunk_of[starts].tolist(),
            np.add.reduceat(averaged, starts, axis=0),
            np.diff(starts, append=len(averaged)).tolist(),
            strict=True,
        ):
            if chunk == len(self._open):
                self._open.append(sums)
                self._open_tokens.append(count)
            else:  # the last chunk of the row before continues here
                self._open[chunk] = self._open[chunk] + sums
                self._open_tokens[chunk] += count
        if place.last:
            self._close_document(place, size)

    def _close_document(self, place: Row, size: int) -> None:
        for chunk, (sums, count) in enumerate(zip(self._open, self._open_tokens, strict=True)):
            self._sums[place.document] += sums
            self._weights[place.document] += count
            span = chunk * size, min((chunk + 1) * size, place.end)
            self._close_chunk(place.document, sums / np.float32(count), *span)
        self._open, self._open_tokens = [], []

    def _close_chunk(self, document: int, vector: NDArray[np.float32], start: int, end: int) -> None:
        self._chunks.append(vector)
        self._spans.append((start, end))
        self._counts[document] += 1
