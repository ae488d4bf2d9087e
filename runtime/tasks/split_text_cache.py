"""`KnownDocuments`: cached results of texts that are split. Texts in the cache are not computed again; others are added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ..encodings import Chunks, Embeddings
from ..options.embed import EmbedOptions
from .duplicates import Known, VectorCache

__all__ = ["KnownDocuments"]


class KnownDocuments:
    """Texts of one call, looked up in the cache.

    Attributes:
        missing: the texts that must be computed, in order.
    """

    def __init__(self, cache: VectorCache, texts: Sequence[str], options: EmbedOptions) -> None:
        """Look the texts up.

        Args:
            cache: vectors of earlier calls.
            texts: any number of different texts.
            options: options of embedding.
        """
        self._cache = cache
        try:
            self._keys = cache.keys(texts, options) if cache.enabled else []
        except (UnicodeEncodeError, AttributeError):  # the tokenizer raises the error that names the invalid text
            self._keys = []
        self._known = [cache.get(key) for key in self._keys]
        self.missing = [
            text for text, known in zip(texts, self._known or [None] * len(texts), strict=True) if known is None
        ]

    def join(self, computed: Embeddings) -> Embeddings:
        """Cache the computed results, and add the cached ones.

        Args:
            computed: results of `missing`: float32 vectors of full length, with their chunks.

        Returns:
            The embeddings of all texts, in order.
        """
        if not self._keys:
            return computed
        fresh = _take_apart(computed)
        documents = [
            known or self._cache.keep(key, next(fresh)) for key, known in zip(self._keys, self._known, strict=True)
        ]
        return computed if len(self.missing) == len(documents) else _put_together(documents)


def _take_apart(embeddings: Embeddings) -> Iterator[Known]:
    chunks = _chunks(embeddings)
    for row, (start, end) in enumerate(pairwise(chunks.offsets.tolist())):
        own = Chunks(chunks.vectors[start:end], np.array([0, end - start]), chunks.spans[start:end])
        yield Known(embeddings.vectors[row], int(embeddings.tokens[row]), int(embeddings.dropped[row]), own)


def _put_together(documents: Sequence[Known]) -> Embeddings:
    chunks = [_chunks(document) for document in documents]
    offsets = np.zeros(len(documents) + 1, np.int64)
    np.cumsum([len(one.spans) for one in chunks], out=offsets[1:])
    return Embeddings(
        np.stack([document.vector for document in documents]),
        np.array([document.tokens for document in documents], np.int64),
        np.array([document.dropped for document in documents], np.int32),
        chunks=Chunks(
            np.concatenate([one.vectors for one in chunks]), offsets, np.concatenate([one.spans for one in chunks])
        ),
    )


def _chunks(split: Embeddings | Known) -> Chunks:
    if split.chunks is None:
        raise TypeError("embeddings of split texts include one without chunks")
    return split.chunks
