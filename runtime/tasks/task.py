"""`Task`: the rows that a request needs computed, and the function that turns their values into its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard

from ..artifact.outputs import BY_TOKEN, ValueRows
from ..encodings import Chunks, Embeddings, Encodings, ragged_index
from ..errors import InputError, TooLongError
from ..inputs import TokenIds
from ..options.embed import EmbedOptions
from ..tokenizing.cut_text import LONG
from ..tokenizing.tokenizer import Tokenizer
from .duplicates import Known, Promise, VectorCache, unique
from .long_documents import Folding, Rows, cut_documents
from .postprocess import cast, normalize, shorten
from .split_text_cache import KnownDocuments
from .task_adapters import with_task

__all__ = [
    "Task",
    "encode_ids",
    "finish",
    "finish_rows",
    "prepare_ids",
    "prepare_vectors",
    "refuse_empty",
    "refuse_long",
    "tokenize",
]


#: Advice for ids that another tokenizer made: with their defaults, some clients send those of OpenAI's tokenizers.
OTHER_IDS = (
    "Send texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)), or ids of this model's tokenizer"
)


@dataclass(frozen=True, slots=True)
class Task:
    """Rows to compute, and the function that makes the answer of their values.

    Attributes:
        encodings: rows to compute; none if the cache has all of them.
        output: name of the graph's output to compute; None is the first.
        finish: takes the values of the rows, float32 in their order, and returns the embeddings of all texts, or the other
            output that was requested.
        rows: rows of values that a text has; None is one row.
    """

    encodings: Encodings
    output: str | None
    finish: Callable[[NDArray[np.float32]], Any]
    rows: ValueRows | None = None


def prepare_vectors(
    tokenizer: Tokenizer,
    card: ModelCard,
    cache: VectorCache,
    texts: Sequence[str],
    options: EmbedOptions,
    promised: dict[bytes, Promise] | None = None,
) -> Task:
    """Find duplicates and cached texts, and tokenize the others.

    Args:
        tokenizer: the model's tokenizer.
        card: the model's card.
        cache: vectors of earlier calls.
        texts: any number of texts.
        options: options of embedding, which `ModelInfo.check` accepted.
        promised: vectors that earlier parts of the job are computing, by key; this part adds its own. The tasks of a job
            must be finished in the order in which they were prepared. None means that the job has one part.

    Raises:
        InputError: a text is not a valid Unicode string, or has no token at all.
    """
    try:
        distinct, inverse = (texts, None) if len(texts) < 2 else unique(texts)
        if options.splits:
            return _prepare_split(tokenizer, card, cache, distinct, inverse, options)
        if cache.enabled:
            return _prepare_cached(
                tokenizer, card, cache, distinct, inverse, options, {} if promised is None else promised
            )
        encodings = tokenize(tokenizer, card, distinct, options)
    except (InputError, TypeError):
        tokenize(tokenizer, card, texts, options)  # raises the error with the text's index among all texts
        raise
    return Task(encodings, None, partial(finish_rows, encodings, inverse, card, options))


def prepare_ids(tokenizer: Tokenizer, card: ModelCard, inputs: TokenIds, options: EmbedOptions) -> Task:
    """Check and truncate token ids, which get no prompt and are never split.

    Args:
        tokenizer: the model's tokenizer.
        card: the model's card.
        inputs: token ids of each text.
        options: dimensions, type and norm of the vectors.

    Raises:
        InputError: token ids cannot be used; see `encode_ids`.
    """
    encodings = with_task(encode_ids(tokenizer, inputs, card.name), card, options)
    return Task(encodings, None, partial(finish_rows, encodings, None, card, options))


def encode_ids(tokenizer: Tokenizer, inputs: TokenIds, model: str) -> Encodings:
    """Return a caller's token ids as encodings, truncated to the longest input.

    Args:
        tokenizer: the model's tokenizer.
        inputs: token ids of each text.
        model: name of the model, for messages.

    Raises:
        InputError: an empty row, an id outside the vocabulary, an id that is not a whole number, or a row with special tokens
            where it should have none, or without them where it should have them.
    """
    size = tokenizer.vocabulary_size
    arrays = [np.asarray(row) for row in inputs.rows]
    for index, ids in enumerate(arrays):
        if not ids.size:
            raise InputError(f"row {index} of token ids is empty: it needs at least one id")
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InputError(f"row {index} of token ids holds values that are not whole numbers below 2^63")
        for token in (int(ids.min()), int(ids.max())):
            if not 0 <= token < size:
                raise InputError(
                    f"row {index} holds the token id {token}; the vocabulary of {model} has ids 0 to {size - 1}. {OTHER_IDS}"
                )
        if tokenizer.num_special and tokenizer.has_special_ids(ids) is not inputs.special_tokens:
            raise InputError(_explain_special_tokens(index, tokenizer, inputs, model))
    rows = [ids.astype(np.int32) for ids in arrays]
    return tokenizer.truncate(rows if inputs.special_tokens else [tokenizer.framed(ids) for ids in rows])


def _explain_special_tokens(index: int, tokenizer: Tokenizer, inputs: TokenIds, model: str) -> str:
    """Return the message about a row whose special tokens are missing, or are there already."""
    if not inputs.special_tokens:
        return (
            f"special_tokens is false, but row {index} begins and ends with the special tokens of {model} already: leave it "
            "out"
        )
    prefix, suffix = tokenizer.special_words
    places = [*([f"begin with {prefix}"] if prefix else []), *([f"end with {suffix}"] if suffix else [])]
    return (
        f"row {index} of token ids does not {' and '.join(places)}, as {model}'s tokenizer makes every text do, so they may "
        f"be another tokenizer's. {OTHER_IDS}. Ids of this model that lack only its special tokens need "
        '"special_tokens": false'
    )


def _prepare_split(
    tokenizer: Tokenizer,
    card: ModelCard,
    cache: VectorCache,
    texts: Sequence[str],
    inverse: NDArray[np.int64] | None,
    options: EmbedOptions,
) -> Task:
    documents = KnownDocuments(cache, texts, options)
    parts = list(cut_documents(tokenizer, card, documents.missing, options))
    output = parts[0].output if parts else None
    places = [place for part in parts for place in part.places]
    rows = Rows(Encodings.concatenate([part.encodings for part in parts]), output, places)
    if not rows.encodings.lengths.all():
        refuse_empty(rows.encodings, card)

    def fold(values: NDArray[np.float32]) -> Embeddings:
        folding = Folding(len(documents.missing), card, options)
        folding.add(rows, values)
        return finish(documents.join(folding.result()), inverse, card, options)

    return Task(rows.encodings, output, fold, None if output is None else BY_TOKEN)


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
        keys = [b""] * len(texts)  # the tokenizer raises the error that names the text
    # Promises come first, because a vector that is being computed may later not fit into the cache.
    results = [promised.get(key) or cache.get(key) for key in keys]
    missing = [index for index, result in enumerate(results) if result is None]
    encodings = tokenize(tokenizer, card, [texts[index] for index in missing], options)
    promises = [promised.setdefault(keys[index], Promise()) for index in missing]

    def join(values: NDArray[np.float32]) -> Embeddings:
        lengths, dropped = encodings.lengths, encodings.dropped
        for row, (index, promise) in enumerate(zip(missing, promises, strict=True)):
            promise.known = cache.keep(keys[index], Known(values[row], int(lengths[row]), int(dropped[row])))
            promised.pop(keys[index], None)
        if len(missing) < len(texts):
            rows = iter(promises)
            promised_or_cached = [result or next(rows) for result in results]
            finished = [result.kept() if isinstance(result, Promise) else result for result in promised_or_cached]
            values = np.stack([result.vector for result in finished])
            lengths = np.array([result.tokens for result in finished], np.int64)
            dropped = np.array([result.dropped for result in finished], np.int32)
        return finish(Embeddings(values, lengths, dropped), inverse, card, options)

    return Task(encodings, None, join)


def finish_rows(
    encodings: Encodings,
    inverse: NDArray[np.int64] | None,
    card: ModelCard,
    options: EmbedOptions,
    values: NDArray[np.float32],
) -> Embeddings:
    """Return the embeddings of rows of which each is one text; see `finish`.

    Args:
        encodings: the computed rows.
        inverse, card, options: as in `finish`.
        values: values of the rows, float32, (rows, dimension).
    """
    embeddings = Embeddings(values, encodings.lengths, encodings.dropped)
    if inverse is None and options.dimensions is None and options.dtype == "float32" and options.normalize is None:
        return embeddings
    return finish(embeddings, inverse, card, options)


def finish(
    embeddings: Embeddings, inverse: NDArray[np.int64] | None, card: ModelCard, options: EmbedOptions
) -> Embeddings:
    """Cut, normalize and cast float32 vectors of full length as requested, and repeat them for duplicates.

    Args:
        embeddings: embeddings of the different texts.
        inverse: index of each text among the different ones; None if all texts are different.
        card: the model's card.
        options: length, norm and type of the vectors.
    """
    unit = bool(options.normalize) and not card.normalize
    if options.dimensions is None and options.dtype == "float32" and inverse is None and not unit:
        return embeddings

    def convert(vectors: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        vectors = shorten(vectors, card, options.dimensions)
        return cast(normalize(vectors) if unit else vectors, options.dtype)

    vectors, scales = convert(embeddings.vectors)
    chunks = embeddings.chunks
    if chunks is not None:
        parts, part_scales = convert(chunks.vectors)
        chunks = replace(chunks, vectors=parts, scales=part_scales)
    embeddings = Embeddings(vectors, embeddings.tokens, embeddings.dropped, scales, chunks)
    return embeddings if inverse is None else _repeat(embeddings, inverse)


def _repeat(embeddings: Embeddings, rows: NDArray[np.int64]) -> Embeddings:
    """Return embeddings of all texts, copied from those of the different texts.

    Args:
        embeddings: embeddings of the different texts.
        rows: index of each text among the different ones, int64, (n,).
    """
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
    """Add the prompt, tokenize, and truncate.

    Raises:
        InputError: a text is not a valid Unicode string, or has no token at all.
    """
    if prompt := options.prompt(card):
        texts = [prompt + text if isinstance(text, str) else text for text in texts]
    encodings = tokenizer.encode(texts, side="left" if options.overflow == "truncate_left" else None)
    if not encodings.lengths.all():
        refuse_empty(encodings, card)
    if options.overflow == "refuse":
        refuse_long(encodings, card, texts)
    if card.tasks:
        return with_task(encodings, card, options)
    if prompt and card.include_prompt is False:
        return _mark_prompt(encodings, tokenizer.prompt_length(prompt))
    return encodings


def _mark_prompt(encodings: Encodings, length: int) -> Encodings:
    """Return encodings whose first tokens of each text, those of a prompt, have the type 1: the pooling leaves them out."""
    places = np.arange(encodings.num_tokens) - np.repeat(encodings.offsets[:-1], encodings.lengths)
    return replace(encodings, token_types=(places < length).astype(np.int32))


def refuse_long(encodings: Encodings, card: ModelCard, texts: Sequence[str] = ()) -> None:
    """Raise an error if truncation cut a text.

    Args:
        encodings: the texts' token ids.
        card: the model's card.
        texts: the texts, of which the tokens of long ones were not all counted.

    Raises:
        TooLongError: truncation cut a text.
    """
    if encodings.dropped.any():
        index = int(np.argmax(encodings.dropped > 0))
        tokens = int(encodings.lengths[index]) + int(encodings.dropped[index])
        least = "at least " if texts and len(texts[index]) > LONG else ""
        raise TooLongError(
            f"text {index} has {least}{tokens} tokens, and {card.name} takes at most {card.max_tokens}: shorten it, or "
            "request truncation or windows"
        )


def refuse_empty(encodings: Encodings, card: ModelCard) -> NoReturn:
    """Raise an error that names the first text without a token.

    Raises:
        InputError: always; the message names the text.
    """
    raise InputError(
        f"text {int(np.argmin(encodings.lengths))} has no token, and the tokenizer of {card.name} adds no "
        "special tokens, so there is nothing to embed: leave the text out"
    )
