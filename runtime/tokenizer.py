"""Texts in, ragged token ids out. It knows the tokenizer file and the longest input, and nothing of prompts or vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from .encodings import Encodings
from .errors import ArtifactError, InputError
from .longtexts import PIECE, cuts_safely, pieces

__all__ = ["Tokenizer"]

#: Texts tokenised in one call: bounds the `Encoding` objects (about 100 bytes a token) that live at once.
CHUNK = 1024

#: Pieces of a long text tokenised in one call, for the same reason.
PIECES = 16


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
        # Ids may have gaps, so their number does not bound them.
        self.vocabulary_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._cuts_safely = cuts_safely(self._tokenizer)
        self._prefix, self._suffix = _special_ids(self._tokenizer, path)
        num_special = len(self._prefix) + len(self._suffix)
        if max_tokens <= num_special:
            raise ArtifactError(
                f"a longest input of {max_tokens} tokens leaves no room beside the tokenizer's {num_special} "
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
        # The library takes a tuple or a list of two strings for a pair, and would join them.
        if not all(isinstance(text, str) for text in texts):
            raise InputError(_explain(texts))
        try:
            if any(len(text) > PIECE for text in texts) and self._cuts_safely:
                return self.truncate(
                    [self._encode_long(text) if len(text) > PIECE else self._ids(text) for text in texts]
                )
            if len(texts) == 1:
                return self.truncate([self._ids(texts[0])])
            # `encode_batch_fast` leaves out the character offsets, which nobody reads here.
            return self.truncate([encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)])
        except (TypeError, UnicodeEncodeError):
            raise InputError(_explain(texts)) from None

    def encode_pairs(self, firsts: Sequence[str], seconds: Sequence[str]) -> Encodings:
        """Tokenises pairs of texts into one row each; of too long a pair the longer text is cut, as transformers does.

        Args:
            firsts: the texts that come first.
            seconds: as many others.

        Raises:
            InputError: an element is no string, or a string that is not valid Unicode.
        """
        if len(firsts) > CHUNK:
            chunks = [slice(start, start + CHUNK) for start in range(0, len(firsts), CHUNK)]
            return Encodings.concatenate([self.encode_pairs(firsts[chunk], seconds[chunk]) for chunk in chunks])
        if not all(isinstance(text, str) for text in (*firsts, *seconds)):
            raise InputError(_explain([*firsts, *seconds]))
        try:
            pairs = self._tokenizer.encode_batch_fast(list(zip(firsts, seconds, strict=True)))
        except (TypeError, UnicodeEncodeError):
            raise InputError(_explain([*firsts, *seconds])) from None
        kept = [_keep_of_pair(pair.sequence_ids, self.max_tokens) for pair in pairs]
        rows = [np.array(pair.ids, np.int32)[keep] for pair, keep in zip(pairs, kept, strict=True)]
        types = [np.array(pair.type_ids, np.int32)[keep] for pair, keep in zip(pairs, kept, strict=True)]
        encodings = Encodings.from_lists(rows)
        dropped = np.array([len(pair.ids) for pair in pairs], np.int64) - encodings.lengths
        all_types = np.concatenate(types) if types else np.zeros(0, np.int32)
        return Encodings(encodings.ids, encodings.offsets, dropped.astype(np.int32), all_types)

    def cut(self, encodings: Encodings, max_tokens: int) -> Encodings:
        """Cuts rows further than `max_tokens` of this tokenizer, keeping the special tokens at the end."""
        excess = np.maximum(encodings.lengths - max_tokens, 0)
        if not excess.any():
            return encodings
        rows = np.split(encodings.ids, encodings.offsets[1:-1])
        cut = Encodings.from_lists([self._cut(row, max_tokens) for row in rows])
        return Encodings(cut.ids, cut.offsets, encodings.dropped + excess.astype(np.int32))

    def token_id(self, token: str) -> int | None:
        """The id of a token, or None if the vocabulary lacks it."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def _ids(self, text: str) -> list[int]:
        # A batch of one costs rayon's dispatch; the plain call does not.
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def _encode_long(self, text: str) -> NDArray[np.int32]:
        parts = [np.array(self._prefix, np.int32)]
        for group in _groups(pieces(text), PIECES):
            encodings = self._tokenizer.encode_batch_fast(group, add_special_tokens=False)
            parts += [np.array(encoding.ids, np.int32) for encoding in encodings]
        return np.concatenate([*parts, np.array(self._suffix, np.int32)])

    def truncate(self, rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> Encodings:
        """Joins rows of ids, special tokens included, cutting each to `max_tokens`."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        dropped = np.maximum(lengths - self.max_tokens, 0)
        if dropped.any():
            rows = [self._cut(row, self.max_tokens) if cut else row for row, cut in zip(rows, dropped, strict=True)]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths - dropped, out=offsets[1:])
        ids: NDArray[np.int32] = np.empty(offsets[-1], np.int32)
        for row, start, end in zip(rows, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            ids[start:end] = row
        return Encodings(ids, offsets, dropped.astype(np.int32))

    def _cut(self, row: Sequence[int] | NDArray[np.int32], max_tokens: int) -> NDArray[np.int32]:
        ids = np.asarray(row, np.int32)
        if len(ids) <= max_tokens:
            return ids
        num_suffix = len(self._suffix)
        return np.concatenate([ids[: max_tokens - num_suffix], ids[len(ids) - num_suffix :]])


def _keep_of_pair(sequence_ids: Sequence[int | None], max_tokens: int) -> NDArray[np.int64]:
    """Places of the tokens that stay when a pair is cut to `max_tokens`.

    Source: `truncate_encodings` of the tokenizers library, strategy longest first: the longer text is cut to what the shorter
    leaves, or each to half.
    """
    sequences = np.array([-1 if sequence is None else sequence for sequence in sequence_ids], np.int64)
    first, second = (int((sequences == sequence).sum()) for sequence in (0, 1))
    room = max(max_tokens - int((sequences == -1).sum()), 0)
    if first + second <= room:
        return np.arange(len(sequences))
    shorter = min(first, second)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    limits = (longer, shorter) if first > second else (shorter, longer)
    order = np.stack([np.cumsum(sequences == sequence) for sequence in (0, 1)])
    stays = (sequences == -1) | np.where(sequences == 0, order[0] <= limits[0], order[1] <= limits[1])
    return np.flatnonzero(stays)


def _special_ids(tokenizer: HuggingFaceTokenizer, path: Path) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before a text, and those that it puts behind it.

    Raises:
        ArtifactError: it has special tokens, and no text shows where they go.
    """
    special: list[int] = tokenizer.encode("").ids
    if not special:
        return [], []
    # A vocabulary of one script may make nothing of another's letters: then a token of its own will do.
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=False), key=len)
    for probe in ("a", "0", ".", "的", *vocabulary[:1000]):
        mask = tokenizer.encode(probe).special_tokens_mask
        if 0 in mask:
            num_prefix = mask.index(0)
            return special[:num_prefix], special[num_prefix:]
    raise ArtifactError(f"{path} makes special tokens only of every text that was tried: it is no tokenizer for texts")


def _groups(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while group := list(islice(items, size)):
        yield group


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
