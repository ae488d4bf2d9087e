"""Texts that were seen before: inside one call, and across calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..byte_cache import BoundedCache
from ..embed_options import EmbedOptions
from ..encodings import Chunks

__all__ = ["Distinct", "Known", "Promise", "VectorCache", "unique"]

#: Bytes of vectors that are kept across calls.
CACHE_BYTES = 64 << 20

#: What Python keeps beside the arrays' elements: the key, the arrays' heads, the entry.
ENTRY_BYTES = 500


def unique(texts: Sequence[str]) -> tuple[Sequence[str], NDArray[np.int64] | None]:
    """Each text once, in the order of its first appearance.

    Returns:
        The different texts, and for each of the given ones which it is, int64, (n,); None where all are different.
    """
    if len(texts) < 2:
        return texts, None
    distinct = Distinct(len(texts))
    new = distinct.add(texts)
    return new, distinct.inverse


class Distinct:
    """The same for texts that come in parts, one after the other."""

    def __init__(self, count: int) -> None:
        """
        Args:
            count: texts that will come in all.
        """
        self._places: dict[str, int] = {}
        self._inverse = np.empty(count, np.int64)
        self._done = 0

    def __len__(self) -> int:
        """Different texts so far."""
        return len(self._places)

    @property
    def inverse(self) -> NDArray[np.int64] | None:
        """Of the texts so far, which each is, (n,); None where all are different."""
        return None if len(self._places) == self._done else self._inverse[: self._done]

    def add(self, texts: Sequence[str]) -> Sequence[str]:
        """The next part.

        Returns:
            Its texts that did not come before.
        """
        places = self._places
        known = len(places)
        found = [places.setdefault(text, len(places)) for text in texts]
        self._inverse[self._done : self._done + len(found)] = found
        self._done += len(found)
        if len(places) == known + len(found):
            return texts
        new: list[str] = []
        for text, place in zip(texts, found, strict=True):
            if place == known + len(new):  # places are given in order
                new.append(text)
        return new


@dataclass(frozen=True, slots=True)
class Known:
    """A vector that was computed before.

    Attributes:
        vector: float32, (dimension,), of full length; nobody may write to it.
        tokens: that the model saw.
        dropped: that truncation cut.
        chunks: of a text that was split, its parts; as little to be written to.
    """

    vector: NDArray[np.float32]
    tokens: int
    dropped: int
    chunks: Chunks | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        chunks = self.chunks
        parts = 0 if chunks is None else chunks.vectors.nbytes + chunks.spans.nbytes + ENTRY_BYTES
        return self.vector.nbytes + ENTRY_BYTES + parts

    def copy(self) -> Known:
        """With arrays of its own that nobody can write to."""
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
        """The vector. Parts of a job are finished in order, so whoever asks in his turn finds it.

        Raises:
            RuntimeError: it was asked for before its turn.
        """
        if self.known is None:
            raise RuntimeError("a vector of an earlier part was asked for before that part was finished")
        return self.known


class VectorCache:
    """Vectors by model, options and text, bounded in bytes. Safe to use from several threads.

    It keeps full float32 vectors: a shorter length or another type is made of them on the way out, so every door shares
    them. Texts are keyed by 128 bits of BLAKE2b: two of a billion different ones share a key with a chance below 1e-20.

    Attributes:
        enabled: whether it may keep anything.
    """

    def __init__(self, identity: str, max_bytes: int = CACHE_BYTES) -> None:
        """
        Args:
            identity: of the model and of what runs it: vectors of another are another's.
            max_bytes: bound; 0 keeps nothing.
        """
        self._identity = identity.encode()
        self._cache: BoundedCache[bytes, Known] = BoundedCache(max_bytes)
        self.enabled = max_bytes > 0

    @property
    def hits(self) -> int:
        """Texts that were found."""
        return self._cache.hits

    @property
    def misses(self) -> int:
        """Texts that were not."""
        return self._cache.misses

    def keys(self, texts: Sequence[str], options: EmbedOptions) -> list[bytes]:
        """The texts' keys.

        Raises:
            UnicodeEncodeError: a text that is no valid Unicode.
        """
        same = options.replace(dimensions=None, dtype="float32", normalize=None)
        start = hashlib.blake2b(self._identity, digest_size=16)
        start.update(repr(same).encode())
        keys = []
        for text in texts:
            digest = start.copy()
            digest.update(text.encode())
            keys.append(digest.digest())
        return keys

    def get(self, key: bytes) -> Known | None:
        """What is known under a key."""
        return self._cache.get(key)

    def keep(self, key: bytes, known: Known) -> Known:
        """Keeps a copy, and gives it."""
        kept = known.copy()
        self._cache.put(key, kept, kept.size)
        return kept


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copy = array.copy()
    copy.flags.writeable = False
    return copy
