"""Embedding of long lists, of texts that are split, and of streams.

Lists and streams are computed while later texts are tokenized.
"""

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

#: Texts in a chunk of a long list. So many short texts fill several GPU batches and are tokenized in milliseconds.
CHUNK_TEXTS = 8192

#: Lists longer than this are embedded in chunks: tokenizing all of their texts first would be a noticeable delay.
MANY_TEXTS = 2 * CHUNK_TEXTS

#: Function that computes encodings, as `Workers.compute` does.
Compute = Callable[[Encodings, str | None], NDArray[np.float32]]


def embed_many(
    workers: Workers,
    tokenizer: Tokenizer,
    card: ModelCard,
    texts: Sequence[str],
    options: EmbedOptions,
    output: str | None,
) -> Embeddings:
    """Embed a list of texts in chunks. Each chunk after the first is tokenized while earlier ones are computed.

    Duplicates are computed once.

    Args:
        workers: the threads and the session that compute.
        tokenizer: the artifact's tokenizer.
        card: the model's card.
        texts: at least one text.
        options: options that do not split texts.
        output: name of the graph's output; None is the first.

    Raises:
        InputError: a text is not a valid Unicode string, or has no token at all.
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
            finally:  # after an error, batches that have not begun are dropped
                for computation in computations:
                    computation.cancel()
    except (InputError, TypeError):
        tokenize(tokenizer, card, texts, options)  # raises the error with the text's index among all texts
        raise
    tokens = np.concatenate([chunk.lengths for chunk in encodings])
    dropped = np.concatenate([chunk.dropped for chunk in encodings])
    embeddings = Embeddings(values[: len(distinct)], tokens, dropped)
    return finish(embeddings, distinct.inverse, card, options)


def embed_split(
    compute: Compute,
    tokenizer: Tokenizer,
    card: ModelCard,
    cache: VectorCache,
    texts: Sequence[str],
    options: EmbedOptions,
) -> Embeddings:
    """Embed texts that are split. A limited number of rows is computed at a time, so that the memory is bounded.

    Duplicates are computed once.

    Args:
        compute: function that computes rows.
        tokenizer: the artifact's tokenizer.
        card: the model's card.
        cache: vectors of earlier calls.
        texts: any number of texts.
        options: options that split texts.

    Raises:
        InputError: a text is not a valid Unicode string, or has no token at all.
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
        tokenize(tokenizer, card, texts, options)  # raises the error with the text's index among all texts
        raise
    return finish(documents.join(folding.result()), inverse, card, options)


def compute_tasks(workers: Workers, tasks: Iterator[Task]) -> Iterator[Embeddings]:
    """Compute tasks in order, while a separate thread prepares the next one."""
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
        finally:  # preparing a task raised an error, or the caller stopped early
            for _, computation in started:
                computation.cancel()


def _finish(task: Task, computation: Computation) -> Embeddings:
    embeddings: Embeddings = task.finish(computation.result())
    return embeddings
