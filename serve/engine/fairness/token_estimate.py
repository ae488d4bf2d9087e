"""`TokenEstimate`: number of tokens of texts that are not tokenized yet, predicted from texts that were tokenized."""

from __future__ import annotations

import threading
from typing import Final

from ..price import FIRST_RATIO, ROW_CHARACTERS

__all__ = ["TokenEstimate"]

#: Characters that the first ratio counts for, and characters after which older counts lose half of their weight.
FIRST_CHARACTERS: Final = 1024
REMEMBERED_CHARACTERS: Final = 1 << 20


class TokenEstimate:
    """Moving average of the tokens per character of the requests to one model. Safe to use from any thread.

    Attributes:
        ratio: tokens per character.
    """

    def __init__(self) -> None:
        self.ratio = FIRST_RATIO
        self._characters = float(FIRST_CHARACTERS)
        self._tokens = FIRST_RATIO * FIRST_CHARACTERS
        self._lock = threading.Lock()

    def learn(self, characters: int, rows: int, tokens: int) -> None:
        """Count texts that were tokenized.

        Args:
            characters: number of their characters.
            rows: number of texts.
            tokens: number of their tokens, with those that truncation cut.
        """
        with self._lock:
            if self._characters > REMEMBERED_CHARACTERS:
                self._characters /= 2
                self._tokens /= 2
            self._characters += characters + ROW_CHARACTERS * rows
            self._tokens += tokens
            self.ratio = self._tokens / self._characters
