"""`UnitEncoder`: an encoder for tests of `Ingestion`. Its vectors have length 1 and can be computed without a model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Embeddings
from fletcher.runtime.options.embed import EmbedOptions

from ..fake_encoder import CARD, info

DIMENSION = 8


def unit_vector(text: str, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Return the vector of a text, from its hash: float32, (dimension,), of length 1."""
    raw = np.frombuffer(hashlib.sha512(text.encode()).digest(), np.uint8)[:dimension].astype(np.float32) - 127.5
    vector: NDArray[np.float32] = (raw / np.linalg.norm(raw)).astype(np.float32)
    return vector


class UnitEncoder:
    """Encoder that counts one token for each character.

    Attributes:
        embedded: texts that were embedded, in order.
        norm: length of the vectors.
        delay: seconds that each chunk takes.
    """

    def __init__(self, digest: str = "d1", dimension: int = DIMENSION, norm: float = 1.0, delay: float = 0.0) -> None:
        card = msgspec.structs.replace(CARD, name="unit", dimension=dimension, normalize=True, matryoshka=())
        self.info = info(card=card, digest=digest, dimension=dimension)
        self.norm = norm
        self.delay = delay
        self.embedded: list[str] = []

    def _embeddings(self, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
        lengths = np.array([len(text) for text in texts], np.int64)
        vectors = np.stack([unit_vector(text, self.info.dimension) for text in texts]) * np.float32(self.norm)
        dropped = np.zeros(len(texts), np.int32)
        if options.dtype == "float16":
            return Embeddings(vectors.astype(np.float16), lengths, dropped)
        if options.dtype == "int8":
            scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
            return Embeddings(np.round(vectors / scales[:, None]).astype(np.int8), lengths, dropped, scales)
        return Embeddings(vectors, lengths, dropped)

    def stream(self, chunks: Iterable[Sequence[str]], options: EmbedOptions) -> Iterator[Embeddings]:
        for texts in chunks:
            if self.delay:
                time.sleep(self.delay)
            self.embedded += texts
            yield self._embeddings(texts, options)

    def embed(self, texts: Sequence[str], options: EmbedOptions) -> Embeddings:
        prompted = options.input_type == "prompted"
        return self._embeddings([f"prompted:{text}" if prompted else text for text in texts], EmbedOptions())
