"""`Distinct` finds duplicate texts of one call, and `VectorCache` caches vectors for later calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..byte_cache import BoundedCache
from ..encodings import Chunks
from ..options.embed import EmbedOptions

__all__ = ["Distinct", "Known", "Promise", "VectorCache", "unique"]

#: Default size in bytes of the cache of vectors.
CACHE_BYTES = 64 << 20

#: Bytes that Python needs for an entry besides the arrays' elements: for the key, the arrays' headers and the entry itself.
ENTRY_BYTES = 500


def unique(texts: Sequence[str]) -> tuple[Sequence[str], NDArray[np.int64] | None]:
    """Return each text once, in the order of its first appearance.

    Returns:
        The different texts, and the index of each of `texts` among them, int64, (n,); None if all are different.
    """
    if len(texts) < 2:
        return texts, None
    distinct = Distinct(len(texts))
    new = distinct.add(texts)
    return new, distinct.inverse


class Distinct:
    """Distinct texts of a sequence that arrives in parts."""

    def __init__(self, count: int) -> None:
        """Start without texts.

        Args:
            count: number of texts of all parts together.
        """
        self._places: dict[str, int] = {}
        self._inverse = np.empty(count, np.int64)
        self._done = 0

    def __len__(self) -> int:
        """Return the number of different texts that were added."""
        return len(self._places)

    @property
    def inverse(self) -> NDArray[np.int64] | None:
        """Return the index of each added text among the different ones, int64, (n,); None if all are different."""
        return None if len(self._places) == self._done else self._inverse[: self._done]

    def add(self, texts: Sequence[str]) -> Sequence[str]:
        """Add the next part.

        Returns:
            The different texts of this part that no earlier part contains.
        """
        places = self._places
        before = len(places)
        indices = [places.setdefault(text, len(places)) for text in texts]
        self._inverse[self._done : self._done + len(indices)] = indices
        self._done += len(indices)
        if len(places) == before + len(indices):
            return texts
        new: list[str] = []
        for text, index in zip(texts, indices, strict=True):
            if index == before + len(new):  # a new text always gets the next index
                new.append(text)
        return new


@dataclass(frozen=True, slots=True)
class Known:
    """Cached result of one text.

    Attributes:
        vector: vector of full length, float32, (dimension,); read-only.
        tokens: number of tokens that the model processed.
        dropped: number of tokens that truncation cut.
        chunks: parts of the text if it was split, read-only; else None.
    """

    vector: NDArray[np.float32]
    tokens: int
    dropped: int
    chunks: Chunks | None = None

    @property
    def size(self) -> int:
        """Return its approximate size in bytes."""
        chunks = self.chunks
        parts = 0 if chunks is None else chunks.vectors.nbytes + chunks.spans.nbytes + ENTRY_BYTES
        return self.vector.nbytes + ENTRY_BYTES + parts

    def copy(self) -> Known:
        """Return a copy whose arrays are separate and read-only."""
        chunks = self.chunks
        if chunks is not None:
            chunks = Chunks(*map(_frozen, (chunks.vectors, chunks.offsets, chunks.spans)))
        return Known(_frozen(self.vector), self.tokens, self.dropped, chunks)


@dataclass(slots=True)
class Promise:
    """A vector that an earlier part of the same job is computing.

    Attributes:
        known: the vector; None until that part is done.
    """

    known: Known | None = None

    def kept(self) -> Known:
        """Return the computed vector. Parts of a job are finished in order, so it exists when a later part needs it.

        Raises:
            RuntimeError: the earlier part is not finished.
        """
        if self.known is None:
            raise RuntimeError("a vector of an earlier part was requested before that part was finished")
        return self.known


class VectorCache:
    """Cache of vectors by model, options and text, bounded in bytes. Safe to use from several threads.

    It caches float32 vectors of full length. Shorter vectors and other types are made from them after the lookup, so that
    all APIs share the cache. A text's key is a BLAKE2b hash of 128 bits: the probability that any two of a billion different
    texts have the same key is below 1e-20.

    Attributes:
        enabled: whether the cache can hold vectors; False if its size is 0.
    """

    def __init__(self, identity: str, max_bytes: int = CACHE_BYTES) -> None:
        """Make an empty cache.

        Args:
            identity: text that identifies the model and the provider. It is a part of every key, so that vectors of another
                model are never returned.
            max_bytes: bound of the memory in bytes; 0 caches nothing.
        """
        self._identity = identity.encode()
        self._cache: BoundedCache[bytes, Known] = BoundedCache(max_bytes)
        self.enabled = max_bytes > 0

    @property
    def hits(self) -> int:
        """Return the number of texts that were in the cache."""
        return self._cache.hits

    @property
    def misses(self) -> int:
        """Return the number of texts that were not in the cache."""
        return self._cache.misses

    def salted(self, salt: str) -> VectorCache:
        """Return a view of this cache that finds only what was kept with the same salt. They share the bound of the memory.

        Args:
            salt: any text; empty for this cache itself.
        """
        if not salt:
            return self
        view = copy(self)
        view._identity = self._identity + b"\0salt\0" + salt.encode("utf-8", "surrogatepass")
        return view

    def keys(self, texts: Sequence[str], options: EmbedOptions) -> list[bytes]:
        """Return the key of each text.

        Args:
            texts: any number of texts.
            options: options of embedding. Length, type and norm are not a part of the key.

        Raises:
            UnicodeEncodeError: a text is not valid Unicode.
        """
        same = options.replace(dimensions=None, dtype="float32", normalize=None)
        start = self.begin_key(repr(same))
        keys = []
        for text in texts:
            digest = start.copy()
            digest.update(text.encode())
            keys.append(digest.digest())
        return keys

    def begin_key(self, kind: str) -> hashlib.blake2b:
        """Return the beginning of a key: the model, and the kind of the data that follow."""
        start = hashlib.blake2b(self._identity, digest_size=16)
        start.update(kind.encode())
        return start

    def get(self, key: bytes) -> Known | None:
        """Return the cached result of a key, or None."""
        return self._cache.get(key)

    def keep(self, key: bytes, known: Known) -> Known:
        """Cache a read-only copy of a result, and return the copy."""
        copy = known.copy()
        self._cache.put(key, copy, copy.size)
        return copy


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copy = array.copy()
    copy.flags.writeable = False
    return copy
