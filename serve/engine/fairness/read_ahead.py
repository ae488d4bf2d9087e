"""`ReadAhead`: limit of the parts of a stream that are in progress, counted in tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from fletcher.runtime.model_info import ModelInfo

from ..price import ROW_CHARACTERS

__all__ = ["ReadAhead"]

#: Batches of the device that may be in progress for each worker: one is computed, and one waits behind it.
BATCHES: Final = 2

#: Smallest and largest number of parts in progress. With two, one is computed while the next one is read and tokenized.
LEAST_PARTS: Final = 2
MOST_PARTS: Final = 256

#: Tokens per character before the first part is answered: English has about four characters per token.
USUAL_RATIO: Final = 0.25


class ReadAhead:
    """Parts of one stream between reading and answer. Not safe to use from several threads at once."""

    def __init__(self, info: ModelInfo) -> None:
        """Start without parts.

        Args:
            info: description of the model that computes the stream.
        """
        self._limit = BATCHES * info.token_budget * info.workers
        self._parts: deque[int] = deque()
        self._characters = 0
        self._ratio = USUAL_RATIO

    @property
    def full(self) -> bool:
        """Return whether the stream must not read more before a part is answered."""
        count = len(self._parts)
        return count >= MOST_PARTS or (count >= LEAST_PARTS and self._characters * self._ratio >= self._limit)

    def begin(self, texts: Sequence[str]) -> None:
        """Count a part that was submitted."""
        characters = sum(map(len, texts)) + ROW_CHARACTERS * len(texts)
        self._parts.append(characters)
        self._characters += characters

    def end(self, tokens: int) -> None:
        """Count the answer of the earliest part in progress.

        Args:
            tokens: number of its tokens. The tokens of later parts are estimated from it.
        """
        characters = self._parts.popleft()
        self._characters -= characters
        if characters:
            self._ratio = tokens / characters
