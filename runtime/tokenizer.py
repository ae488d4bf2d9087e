"""Texts in, ragged token ids out. It knows the tokenizer file and the longest input, and nothing of prompts or vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from .encodings import Encodings
from .errors import ArtifactError, InputError

__all__ = ["Tokenizer"]

#: Texts tokenised in one call: bounds the `Encoding` objects (about 100 bytes a token) that live at once.
CHUNK = 1024


class Tokenizer:
    """HuggingFace's tokenizer, with truncation that says what it cut.

    Truncation takes tokens from the right end of the text and keeps the special tokens around it, as transformers does.

    Attributes:
        max_tokens: longest output, special tokens included.
        vocabulary_size: ids are below this.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        """
        Args:
            path: a `tokenizer.json`.
            max_tokens: longest output, special tokens included.

        Raises:
            ArtifactError: the file cannot be read.
        """
        try:
            self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(f"{path} is no tokenizer that can be read: {error}") from error
        # A checkpoint's file may carry truncation and padding of its training run: both would be silent here.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self.vocabulary_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        empty = self._tokenizer.encode("")
        probe = self._tokenizer.encode("a")
        ordinary = [index for index, special in enumerate(probe.special_tokens_mask) if not special]
        self._num_prefix = ordinary[0] if ordinary else len(empty.ids)
        self._num_suffix = len(empty.ids) - self._num_prefix
        if max_tokens <= len(empty.ids):
            raise ArtifactError(
                f"a longest input of {max_tokens} tokens leaves no room beside the tokenizer's {len(empty.ids)} "
                "special tokens: choose a larger --max-tokens"
            )

    def encode(self, texts: Sequence[str]) -> Encodings:
        """Tokenises texts, on several threads for more than one and without holding the GIL.

        Raises:
            InputError: an element is no string, or a string that is not valid Unicode.
        """
        if len(texts) > CHUNK:
            return Encodings.concatenate(
                [self.encode(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
            )
        try:
            # `encode_batch_fast` leaves out the character offsets, which nobody reads here.
            encodings = self._tokenizer.encode_batch_fast(texts) if len(texts) != 1 else [self._encode_one(texts[0])]
        except (TypeError, UnicodeEncodeError):
            raise InputError(_explain(texts)) from None
        return self.truncate([encoding.ids for encoding in encodings])

    def _encode_one(self, text: str) -> object:
        # A batch of one costs rayon's dispatch; the plain call does not.
        return self._tokenizer.encode(text)

    def truncate(self, rows: Sequence[Sequence[int]]) -> Encodings:
        """Joins rows of ids, special tokens included, cutting each to `max_tokens`."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        dropped = np.maximum(lengths - self.max_tokens, 0)
        if dropped.any():
            rows = [self._cut(row) if cut else row for row, cut in zip(rows, dropped, strict=True)]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths - dropped, out=offsets[1:])
        ids: NDArray[np.int32] = np.empty(offsets[-1], np.int32)
        for row, start, end in zip(rows, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            ids[start:end] = row
        return Encodings(ids, offsets, dropped.astype(np.int32))

    def _cut(self, row: Sequence[int]) -> list[int]:
        suffix = list(row[len(row) - self._num_suffix :])
        return [*row[: self.max_tokens - self._num_suffix], *suffix]


def _explain(texts: Sequence[str]) -> str:
    """Which text could not be tokenised, and why."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            return f"text {index} is {type(text).__name__}, not a string"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            return (
                f"text {index} holds the lone surrogate U+{code:04X} at character {error.start}, which is no valid "
                "Unicode: decode the text with errors='replace', or remove it"
            )
    return "the texts could not be tokenised"
