"""One call's texts on their way: which rows must be computed, and how their values become the call's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard

from ..embed_options import EmbedOptions
from ..encodings import Chunks, Embeddings, Encodings, ragged_index
from ..errors import InputError, TooLongError
from ..tokenizing.tokenizer import Tokenizer
from .duplicates import Known, Promise, VectorCache, unique
from .long_documents import Folding, Rows, cut_documents
from .postprocess import cast, normalize, shorten
from .split_text_cache import KnownDocuments

__all__ = ["Task", "check_lengths", "check_strings", "finish", "prepare", "refuse_long", "tokenize"]


@dataclass(frozen=True, slots=True)
class Task:
    """What to compute, and what to make of it.

    Attributes:
        encodings: rows to compute; there may be none, where everything is known.
        output: which of the graph's outputs; None is the first.
        finish: takes their values, float32 in the order of the rows, and gives the embeddings of all texts, or what else
            was asked for.
        by_token: whether the graph gives a row of values a token, instead of a row a text.
    """

    encodings: Encodings
    output: str | None
    finish: Callable[[NDArray[np.float32]], Any]
    by_token: bool = False


def prepare(
    tokenizer: Tokenizer,
    card: ModelCard,
    cache: VectorCache,
    texts: Sequence[str],
    options: EmbedOptions,
    promised: dict[bytes, Promise] | None = None,
) -> Task:
    """Finds duplicates and known texts, and tokenizes the others.

    Args:
        tokenizer: the model's.
        card: the model's.
        cache: vectors of earlier calls.
        texts: any number.
        options: how they become vectors; they were checked.
        promised: vectors that earlier parts of the job are computing, by key; this part adds its own. The tasks of a job
            must be finished in the order in which they were prepared. None is a job of one part.

    Raises:
        InputError: a text that is no valid Unicode string, or one that has no token at all.
    """
    check_strings(texts)
    try:
        return _prepare(tokenizer, card, cache, texts, options, {} if promised is None else promised)
    except (InputError, TypeError):
        tokenize(
            tokenizer, card, texts, options
        )  # names the text by its own number, not by that among the unknown ones
        raise


def _prepare(
    tokenizer: Tokenizer,
    card: ModelCard,
    cache: VectorCache,
    texts: Sequence[str],
    options: EmbedOptions,
    promised: dict[bytes, Promise],
) -> Task:
    distinct, inverse = unique(texts)
    if options.splits:
        documents = KnownDocuments(cache, distinct, options)
        parts = list(cut_documents(tokenizer, card, documents.missing, options))
        output = parts[0].output if parts else None
        places = [place for part in parts for place in part.places]
        rows = Rows(Encodings.concatenate([part.encodings for part in parts]), output, places)
        check_lengths(rows.encodings, card)

        def fold(values: NDArray[np.float32]) -> Embeddings:
            folding = Folding(len(documents.missing), card, options)
            folding.add(rows, values)
            return finish(documents.join(folding.result()), inverse, card, options)

        return Task(rows.encodings, output, fold, by_token=output is not None)
    if not cache.enabled:
        encodings = tokenize(tokenizer, card, distinct, options)
        return Task(
            encodings,
            None,
            lambda values: finish(Embeddings(values, encodings.lengths, encodings.dropped), inverse, card, options),
        )
    return _prepare_cached(tokenizer, card, cache, distinct, inverse, options, promised)


def _prepare_cached(
    tokenizer: Tokenizer,
    card: ModelCard,
    cache: VectorCache,
    texts: Sequence[str],
    inverse: NDArray[np.int64] | None,
    options: EmbedOptions,
    promised: dict[bytes, Promise],
) -> Task:
    try:
        keys = cache.keys(texts, options)
    except UnicodeEncodeError:
        keys = [b""] * len(texts)  # the tokenizer names the text
    # A promise is looked for first: one that is kept meanwhile is in the cache, if that is large enough.
    known = [promised.get(key) or cache.get(key) for key in keys]
    missing = [index for index, value in enumerate(known) if value is None]
    encodings = tokenize(tokenizer, card, [texts[index] for index in missing], options)
    promises = [promised.setdefault(keys[index], Promise()) for index in missing]

    def join(values: NDArray[np.float32]) -> Embeddings:
        lengths, dropped = encodings.lengths, encodings.dropped
        for row, (index, promise) in enumerate(zip(missing, promises, strict=True)):
            promise.known = cache.keep(keys[index], Known(values[row], int(lengths[row]), int(dropped[row])))
            promised.pop(keys[index], None)
        if len(missing) < len(texts):
            rows = iter(promises)
            all_known = [value or next(rows) for value in known]
            found = [value.kept() if isinstance(value, Promise) else value for value in all_known]
            values = np.stack([value.vector for value in found])
            lengths = np.array([value.tokens for value in found], np.int64)
            dropped = np.array([value.dropped for value in found], np.int32)
        return finish(Embeddings(values, lengths, dropped), inverse, card, options)

    return Task(encodings, None, join)


def finish(
    embeddings: Embeddings, inverse: NDArray[np.int64] | None, card: ModelCard, options: EmbedOptions
) -> Embeddings:
    """Full float32 vectors to what was asked for: repeated for duplicates, cut, cast.

    Args:
        embeddings: of the different texts.
        inverse: which of them each text is; None where all are different.
        card: the model's.
        options: the wanted length, norm and type.
    """
    unit = bool(options.normalize) and not card.normalize
    if options.dimensions is None and options.dtype == "float32" and inverse is None and not unit:
        return embeddings

    def leave(vectors: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        vectors = shorten(vectors, card, options.dimensions)
        return cast(normalize(vectors) if unit else vectors, options.dtype)

    vectors, scales = leave(embeddings.vectors)
    chunks = embeddings.chunks
    if chunks is not None:
        parts, part_scales = leave(chunks.vectors)
        chunks = replace(chunks, vectors=parts, scales=part_scales)
    embeddings = Embeddings(vectors, embeddings.tokens, embeddings.dropped, scales, chunks)
    return embeddings if inverse is None else _repeat(embeddings, inverse)


def _repeat(embeddings: Embeddings, rows: NDArray[np.int64]) -> Embeddings:
    """Embeddings of different texts for all texts: which of them each is, int64, (n,)."""
    chunks = embeddings.chunks
    if chunks is not None:
        index = ragged_index(chunks.offsets, rows)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.diff(chunks.offsets)[rows], out=offsets[1:])
        scales = None if chunks.scales is None else chunks.scales[index]
        chunks = Chunks(chunks.vectors[index], offsets, chunks.spans[index], scales)
    return Embeddings(
        embeddings.vectors[rows],
        embeddings.tokens[rows],
        embeddings.dropped[rows],
        None if embeddings.scales is None else embeddings.scales[rows],
        chunks,
    )


def tokenize(tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], options: EmbedOptions) -> Encodings:
    """Adds the prompt, tokenizes, and truncates.

    Raises:
        InputError: a text that is no valid Unicode string, or one that has no token at all.
    """
    if prompt := options.prompt(card):
        texts = [prompt + text if isinstance(text, str) else text for text in texts]
    encodings = tokenizer.encode(texts, side="left" if options.overflow == "truncate_left" else "right")
    check_lengths(encodings, card)
    if options.overflow == "refuse":
        refuse_long(encodings, card)
    return encodings


def refuse_long(encodings: Encodings, card: ModelCard) -> None:
    """
    Raises:
        TooLongError: a text of which truncation cut something.
    """
    if encodings.dropped.any():
        index = int(np.argmax(encodings.dropped > 0))
        tokens = int(encodings.lengths[index]) + int(encodings.dropped[index])
        raise TooLongError(
            f"text {index} has {tokens} tokens, and {card.name} takes {card.max_tokens}: shorten it, or ask for truncation "
            "or windows"
        )


def check_strings(texts: Sequence[str]) -> None:
    """
    Raises:
        InputError: one string where a list of them belongs.
    """
    if isinstance(texts, str):
        raise InputError("texts is one string: pass a list of strings")


def check_lengths(encodings: Encodings, card: ModelCard) -> None:
    """
    Raises:
        InputError: a row without a token.
    """
    if not encodings.lengths.all():
        raise InputError(
            f"text {int(np.argmin(encodings.lengths))} has no token, and the tokenizer of {card.name} adds no "
            "special ones, so there is nothing to embed: leave it out"
        )
