"""Bulk work: many texts in chunks, split texts, and streams, computed while later texts are tokenized."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard

from .encodings import Embeddings, Encodings
from .errors import InputError
from .options.embed import EmbedOptions
from .tasks.duplicates import Distinct, VectorCache, unique
from .tasks.long_documents import Folding, cut_documents
from .tasks.split_text_cache import KnownDocuments
from .tasks.task import Task, finish, refuse_empty, tokenize
from .tokenizing.tokenizer import Tokenizer
from .workers.planning import chunk_places
from .workers.pool import Computation, Workers

__all__ = ["CHUNK_TEXTS", "MANY_TEXTS", "compute_tasks", "embed_many", "embed_split"]

#: Texts of a chunk where many are embedded at once: some GPU batches of short ones, and tokenized in milliseconds.
CHUNK_TEXTS = 8192

#: Texts that are many: tokenizing them all before the first is computed would be seen.
MANY_TEXTS = 2 * CHUNK_TEXTS

#: Computes encodings: see `Workers.compute`.
Compute = Callable[[Encodings, str | None], NDArray[np.float32]]


def embed_many(
    workers: Workers,
    tokenizer: Tokenizer,
    card: ModelCard,
    texts: Sequence[str],
    options: EmbedOptions,
    output: str | None,
) -> Embeddings:
    """Embed texts in chunks, so that all but the first are tokenized while others are computed; duplicates once.

    Args:
        workers: compute.
        tokenizer: the artifact's.
        card: the model's.
        texts: any number but none.
        options: how they become vectors, without splitting.
        output: of the graph, as `Workers.start` takes it.

    Raises:
        InputError: a text that is not a valid Unicode string, or one that has no token at all.
    """
    distinct = Distinct(len(texts))
    values = workers.room(len(texts), output)

    def read(place: slice) -> Encodings:
        return tokenize(tokenizer, card, distinct.add(texts[place]), options)

    encodings: list[Encodings] = []
    computations: list[Computation] = []
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="fletcher-read") as reader:
            try:
                places, start = chunk_places(len(texts), CHUNK_TEXTS), 0
                for place, chunk in zip(places, reader.map(read, places), strict=True):
                    into = values[start : start + len(chunk)]
                    encodings.append(chunk)
                    computations.append(workers.start(chunk, output, into, more=place.stop < len(texts)))
                    start += len(chunk)
                for computation in computations:
                    computation.result()
            finally:  # after a failure the rest is forgotten
                for computation in computations:
                    computation.cancel()
    except (InputError, TypeError):
        tokenize(tokenizer, card, texts, options)  # names the text by its place among all
        raise
    tokens = np.concatenate([chunk.lengths for chunk in encodings])
    dropped = np.concatenate([chunk.dropped for chunk in encodings])
    made = Embeddings(values[: len(distinct)], tokens, dropped)
    return finish(made, distinct.inverse, card, options)


def embed_split(
    compute: Compute,
    tokenizer: Tokenizer,
    card: ModelCard,
    cache: VectorCache,
    texts: Sequence[str],
    options: EmbedOptions,
) -> Embeddings:
    """Embed texts that are split, a part of the rows at a time, so that a document of any length fits; duplicates once.

    Args:
        compute: computes rows.
        tokenizer: the artifact's.
        card: the model's.
        cache: vectors of earlier calls.
        texts: any number.
        options: how they are split.

    Raises:
        InputError: a text that is not a valid Unicode string, or one that has no token at all.
    """
    try:
        distinct, inverse = unique(texts)
        documents = KnownDocuments(cache, distinct, options)
        folding = Folding(len(documents.missing), card, options)
        for rows in cut_documents(tokenizer, card, documents.missing, options):
            if not rows.encodings.lengths.all():
                refuse_empty(rows.encodings, card)
            folding.add(rows, compute(rows.encodings, rows.output))
    except (InputError, TypeError):
        tokenize(tokenizer, card, texts, options)  # names the text by its place among all
        raise
    return finish(documents.join(folding.result()), inverse, card, options)


def compute_tasks(workers: Workers, tasks: Iterator[Task]) -> Iterator[Embeddings]:
    """Compute tasks in order, while the next one is prepared on a thread of its own."""
    with ThreadPoolExecutor(1, thread_name_prefix="fletcher-read") as reader:
        reading = reader.submit(next, tasks, None)
        started: deque[tuple[Task, Computation]] = deque()
        try:
            while (task := reading.result()) is not None:
                reading = reader.submit(next, tasks, None)
                started.append((task, workers.start(task.encodings, task.output)))
                if len(started) > 1:
                    yield _finish(*started.popleft())
            while started:
                yield _finish(*started.popleft())
        finally:  # the chunks failed, or the caller has enough
            for _, computation in started:
                computation.cancel()


def _finish(task: Task, computation: Computation) -> Embeddings:
    embeddings: Embeddings = task.finish(computation.result())
    return embeddings
