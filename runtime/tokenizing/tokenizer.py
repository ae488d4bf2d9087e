"""`Tokenizer`: conversion of texts to ragged token ids, cut to the model's longest input. It adds no prompts."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from ..byte_cache import BoundedCache
from ..encodings import Encodings
from ..errors import ArtifactError, InputError
from .cut_text import LONG, beginning, ending
from .long_text import PIECE, ends_of, pieces
from .nanotoken import FastTokenizer, open_fast
from .pairs import encode_pairs
from .token_details import TextToken, describe_tokens
from .truncation import Side, truncate

__all__ = ["Tokenizer", "TokenizerStats", "vocabulary_size"]

logger = logging.getLogger("fletcher.runtime.tokenizing.tokenizer")

#: Texts of one call of HuggingFace's tokenizer. This bounds the memory of its `Encoding` objects, about 100 bytes per token.
CHUNK = 1024

#: Pieces of a long text in one call of HuggingFace's tokenizer, for the same reason.
PIECES = 16

#: Default bound of the cache of token ids, in bytes of ids and texts.
CACHE_BYTES = 16 << 20

#: Largest number of texts of a call that uses the cache, and largest number of characters of a cached text. Requests use the
#: cache; large jobs do not.
CACHED_TEXTS, CACHED_CHARACTERS = 16, 2048

#: Message about texts that have no known fault.
UNEXPLAINED = "the texts could not be tokenized"

#: Bytes that Python needs for a cached text besides its characters and ids.
ENTRY_BYTES = 400


@dataclass(slots=True)
class TokenizerStats:
    """Counts of a tokenizer's work since it was opened.

    Attributes:
        seconds: time inside the tokenizer, summed over all threads and methods.
        texts: tokenized texts, including those from the cache; a pair counts as two.
        tokens: produced tokens, including those that truncation cut.
        cache_hits: texts that were in the cache.
        cache_misses: texts that were not in the cache.
    """

    seconds: float = 0.0
    texts: int = 0
    tokens: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, started: float, *, texts: int, tokens: int, hits: int = 0, misses: int = 0) -> None:
        """Count work that began at `started` (`time.perf_counter`) and ends now. Safe to call from several threads."""
        seconds = time.perf_counter() - started
        with self._lock:
            self.seconds += seconds
            self.texts += texts
            self.tokens += tokens
            self.cache_hits += hits
            self.cache_misses += misses


def vocabulary_size(tokenizer: HuggingFaceTokenizer) -> int:
    """Return the largest id plus 1. That is the number of ids, unless ids have gaps."""
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    # Ids are checked one by one, because a dictionary of all tokens takes longer and needs megabytes.
    if all(tokenizer.id_to_token(number) is not None for number in range(count)):
        return count
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


class Tokenizer:
    """HuggingFace's tokenizer, or a faster one that was checked against it, with truncation that counts the tokens it cut.

    The fast tokenizer returns flat arrays and takes a few microseconds for a short text (benchmarks/tokenizers).
    HuggingFace's tokenizer is slower, because it makes a list of Python integers for each text. Only with it are recent short
    texts cached.

    Attributes:
        max_tokens: longest output, special tokens included.
        side: end of a text that is cut if it is too long, unless a call names another.
        vocabulary_size: largest id plus 1.
        stats: counts of its work.
        fast_problem: reason why the fast tokenizer is not used; None if it is used or was not requested.
    """

    def __init__(
        self,
        path: Path,
        max_tokens: int,
        *,
        fast: bool = True,
        strip: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Open a tokenizer file.

        Args:
            path: a `tokenizer.json`.
            max_tokens: largest number of tokens of an output, special tokens included.
            fast: whether the fast tokenizer may be used. It must give the same ids for every conformance text.
            strip: whether the blanks around a text are removed first, as `str.strip` does; those of pairs stay.
            cache_bytes: bound of the cache in bytes; 0 turns it off.

        Raises:
            ArtifactError: the file cannot be read.
        """
        try:
            # `from_file` would hold Python's lock while a file system does not answer, and with it the whole process.
            self._tokenizer = HuggingFaceTokenizer.from_buffer(path.read_bytes())
        except Exception as error:
            raise ArtifactError(f"{path} is not a tokenizer that can be read: {error}") from error
        # Of the truncation, an artifact's file says the side alone. Length and padding may be those of a training run, which
        # would change ids without notice.
        self.side: Side = "left" if (self._tokenizer.truncation or {}).get("direction") == "left" else "right"
        self._strips = strip
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self.vocabulary_size = vocabulary_size(self._tokenizer)
        self._ends = ends_of(self._tokenizer)
        self._prefix, self._suffix = _special_ids(self._tokenizer, path)
        #: The same as lists, which are faster to compare with a few ids than arrays.
        self._special: tuple[list[int], list[int]] = self._prefix.tolist(), self._suffix.tolist()
        if max_tokens <= self.num_special:
            raise ArtifactError(
                f"a longest input of {max_tokens} tokens leaves no room beside the tokenizer's {self.num_special} "
                "special tokens: choose a larger --max-tokens"
            )
        self.stats = TokenizerStats()
        self._prompt_lengths: dict[str, int] = {}
        self._cache: BoundedCache[str, NDArray[np.int32]] = BoundedCache(cache_bytes)
        self.fast_problem: str | None = None
        self._fast: FastTokenizer | None = None
        if fast:
            opened = open_fast(path, self._tokenizer)
            if isinstance(opened, FastTokenizer):
                self._fast = opened
            else:
                self.fast_problem = opened.reason
                level = logging.WARNING if opened.fault else logging.INFO
                logger.log(level, "fast tokenizer", extra={"fields": {"used": False, "reason": opened.reason}})

    @property
    def num_prefix(self) -> int:
        """Number of special tokens before a text."""
        return len(self._prefix)

    @property
    def num_special(self) -> int:
        """Number of special tokens around a text."""
        return len(self._prefix) + len(self._suffix)

    @property
    def special_words(self) -> tuple[str, str]:
        """Special tokens before and behind a text, for messages, such as `101 ([CLS])`; empty if there are none."""
        prefix, suffix = (
            ", ".join(f"{token} ({self._tokenizer.id_to_token(token)})" for token in ids.tolist())
            for ids in (self._prefix, self._suffix)
        )
        return prefix, suffix

    def has_special_ids(self, ids: NDArray[np.integer[Any]]) -> bool:
        """Return whether token ids, (tokens,), begin and end with the special tokens that belong around a text."""
        prefix, suffix = self._special
        return (
            len(ids) >= len(prefix) + len(suffix)
            and ids[: len(prefix)].tolist() == prefix
            and ids[len(ids) - len(suffix) :].tolist() == suffix
        )

    @cached_property
    def implementation(self) -> str:
        """Name and version of the library that makes the ids."""
        return self._fast.name if self._fast else f"tokenizers {metadata.version('tokenizers')}"

    def encode(self, texts: Sequence[str], *, side: Side | Literal["neither"] | None = None) -> Encodings:
        """Tokenize texts without holding the GIL, many of them on several threads, and cut them to `max_tokens`.

        Of a text with more than `LONG` characters only the end that remains is tokenized, if this tokenizer allows cuts at
        the end of a word. Its number of dropped tokens is then a lower bound.

        Args:
            texts: any number of texts.
            side: end of a text at which it is cut if it is too long; `neither` cuts nothing. Default: the tokenizer's.

        Raises:
            InputError: an element is not a string, or is not valid Unicode.
        """
        started = time.perf_counter()
        # The libraries would accept a tuple or a list of two strings as a pair, and bytes as a text.
        if set(map(type, texts)) != {str} and not all(isinstance(text, str) for text in texts):
            raise InputError(_explain(texts))
        if self._strips:
            texts = [text.strip() for text in texts]
        if side != "neither" and self._ends is not None and max(map(len, texts), default=0) > LONG:
            return self._encode_ends(texts, self._ends, side or self.side)
        hits = misses = 0
        try:
            if self._fast is not None:
                ids, offsets = self._fast.encode(texts)
            elif len(texts) <= CACHED_TEXTS:
                rows, hits = self._cached(texts)
                misses = sum(len(text) <= CACHED_CHARACTERS for text in texts) - hits
                ids, offsets = _join(rows)
            else:
                chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
                ids, offsets = _join([row for chunk in chunks for row in self._slow(chunk)])
        except (TypeError, UnicodeEncodeError):
            raise InputError(_explain(texts)) from None
        except BaseException as error:
            raise_panic(error)
            raise
        self.stats.add(started, texts=len(texts), tokens=len(ids), hits=hits, misses=misses)
        # If all ids together fit, each row fits. Most requests are so short.
        if side == "neither" or len(ids) <= self.max_tokens:
            return Encodings(ids, offsets, np.zeros(len(texts), np.int32))
        return self._truncate(ids, offsets, side or self.side)

    def _encode_ends(self, texts: Sequence[str], ends: re.Pattern[str], side: Side) -> Encodings:
        """Tokenize texts of which some are long: of those, only the end that remains."""
        started = time.perf_counter()
        kept: list[NDArray[np.int32]] = []
        long = np.array([len(text) > LONG for text in texts])
        most = self.max_tokens - self.num_special
        try:
            for text in (texts[index] for index in np.flatnonzero(long).tolist()):
                text.encode()  # the part that is not tokenized must be valid Unicode too
                kept.append((beginning if side == "right" else ending)(text, most, ends, self._encode_plain)[0])
            encoded = self._truncate(*_join([self.framed(ids) for ids in kept]), side)
            others = self.encode([text for text, is_long in zip(texts, long, strict=True) if not is_long], side=side)
        except UnicodeEncodeError:
            raise InputError(_explain(texts)) from None
        except BaseException as error:
            raise_panic(error)
            if isinstance(error, InputError) and (reason := _explain(texts)) != UNEXPLAINED:
                raise InputError(reason) from None  # with the text's index among all texts
            raise
        self.stats.add(started, texts=len(kept), tokens=sum(map(len, kept)))
        places = np.where(long, np.cumsum(long) - 1, len(kept) + np.cumsum(~long) - 1)
        return Encodings.concatenate([encoded, others]).select(places)

    def _encode_plain(self, text: str) -> NDArray[np.int32]:
        """Return the token ids of one text without special tokens, int32."""
        return self._plain_by_reference(text) if self._fast is None else self._fast.encode_plain(text)

    def _plain_by_reference(self, text: str) -> NDArray[np.int32]:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def windows(
        self, text: str, *, size: int, overlap: int, lead: Sequence[int] | NDArray[np.int32] = ()
    ) -> Iterator[NDArray[np.int32]]:
        """Cut a text of any length into overlapping windows, each with the special tokens around it.

        If this tokenizer allows cuts at the end of a word, the tokens of only about 64 thousand characters are in memory at a
        time.

        Args:
            text: the text.
            size: tokens of a window, special ones included.
            overlap: tokens that a window shares with the one before.
            lead: token ids before the text's tokens in every window, such as those of a prompt.

        Yields:
            Token ids, int32, (at most size,). The last window ends where the text ends; a text that fits has one window.

        Raises:
            InputError: the text is not a valid Unicode string, or the window has no room for a new token.
        """
        body = size - self.num_special - len(lead)
        if not 0 <= overlap < body:
            raise InputError(
                f"windows of {size} tokens have room for {max(body, 0)} tokens of a text, too few for an overlap of "
                f"{overlap}: choose an overlap from 0 to {max(body - 1, 0)}"
            )
        if self._strips and isinstance(text, str):
            text = text.rstrip() if len(lead) else text.strip()  # a lead belongs to the text: blanks behind it stay
        held = np.zeros(0, np.int32)
        for part in self._counted_parts(text):
            held = np.concatenate([held, part]) if len(held) else part
            while len(held) > body:
                yield self.framed(held[:body], lead)
                held = held[body - overlap :]
        yield self.framed(held, lead)

    def plain_ids(self, text: str) -> NDArray[np.int32]:
        """Return the token ids of a text without special tokens, int32, (tokens,).

        Raises:
            InputError: the text is not a valid Unicode string.
        """
        text = text.strip() if self._strips and isinstance(text, str) else text
        return np.concatenate([np.zeros(0, np.int32), *self._counted_parts(text)])

    def _counted_parts(self, text: str) -> Iterator[NDArray[np.int32]]:
        """Yield the parts of `_parts` and count their time, but not the time that the caller spends between two parts."""
        parts = self._parts(text)
        texts = 1
        while True:
            started = time.perf_counter()
            part = next(parts, None)
            if part is None:
                return
            self.stats.add(started, texts=texts, tokens=len(part))
            texts = 0
            yield part

    def framed(self, ids: NDArray[np.int32], lead: Sequence[int] | NDArray[np.int32] = ()) -> NDArray[np.int32]:
        """Return token ids with the special tokens around them, int32.

        Args:
            ids: ids of a text without special tokens, int32.
            lead: ids between the special tokens and the text's, such as those of a prompt.
        """
        return np.concatenate([self._prefix, np.asarray(lead, np.int32), ids, self._suffix])

    def encode_pairs(self, firsts: Sequence[str], seconds: Sequence[str]) -> Encodings:
        """Tokenize pairs of texts into one row each. If a pair is too long, its longer text is cut, as transformers does.

        Args:
            firsts: the first text of each pair.
            seconds: the second text of each pair.

        Raises:
            InputError: an element is not a string, or is not valid Unicode.
        """
        if len(firsts) > CHUNK:
            chunks = [slice(start, start + CHUNK) for start in range(0, len(firsts), CHUNK)]
            return Encodings.concatenate([self.encode_pairs(firsts[chunk], seconds[chunk]) for chunk in chunks])
        if not all(isinstance(text, str) for text in (*firsts, *seconds)):
            raise InputError(_explain([*firsts, *seconds]))
        started = time.perf_counter()
        try:
            pairs = map(self._shortened, zip(firsts, seconds, strict=True))
            encodings = encode_pairs(self._tokenizer, pairs, self.max_tokens, self.side)
        except (TypeError, UnicodeEncodeError):
            raise InputError(_explain([*firsts, *seconds])) from None
        except BaseException as error:
            raise_panic(error)
            raise
        tokens = encodings.num_tokens + int(encodings.dropped.sum())
        self.stats.add(started, texts=2 * len(firsts), tokens=tokens)
        return encodings

    def _shortened(self, pair: tuple[str, str]) -> tuple[str, str]:
        """Return a pair whose one long text is cut to what can remain of it: more tokens than the other one has.

        If both are long, none is cut: the longer one of the two keeps one token more, and only all tokens show which it is.
        """
        is_long = [len(text) > LONG for text in pair]
        if self._ends is None or sum(is_long) != 1:
            return pair
        long, other = pair[is_long.index(True)], pair[is_long.index(False)]
        long.encode()  # the part that is not tokenized must be valid Unicode too
        most = max(self.max_tokens, len(self._plain_by_reference(other)))
        end = beginning if self.side == "right" else ending
        _, start, stop = end(long, most, self._ends, self._plain_by_reference)
        return (long[start:stop], other) if is_long[0] else (other, long[start:stop])

    def cut(self, encodings: Encodings, max_tokens: int) -> Encodings:
        """Cut rows to a length below this tokenizer's `max_tokens`, keeping the special tokens around them."""
        ends = {"prefix": len(self._prefix), "suffix": len(self._suffix)}
        cut = truncate(encodings.ids, encodings.offsets, max_tokens, **ends, side=self.side)
        return Encodings(cut.ids, cut.offsets, encodings.dropped + cut.dropped)

    def truncate(self, rows: Sequence[NDArray[np.int32]]) -> Encodings:
        """Join rows of ids, special tokens included, and cut each to `max_tokens`."""
        joined = Encodings.from_lists(rows)
        return self._truncate(joined.ids, joined.offsets, self.side)

    def describe(self, texts: Sequence[str], *, special: bool) -> list[list[TextToken]]:
        """Return each text's tokens, without truncation; see `token_details.describe_tokens`."""
        try:
            return describe_tokens(self._tokenizer, texts, special=special, strip=self._strips)
        except BaseException as error:
            raise_panic(error)
            raise

    def prompt_length(self, prompt: str) -> int:
        """Return the tokens of a prompt with the special tokens before it, as sentence-transformers counts them.

        Source: `_get_prompt_length` of sentence-transformers' base/modules/transformer.py: a last special token is left out.
        """
        if (length := self._prompt_lengths.get(prompt)) is None:
            ids = self.encode([prompt], side="neither").ids.tolist()
            added = self._tokenizer.get_added_tokens_decoder()
            length = len(ids) - (bool(ids) and ids[-1] in added and added[ids[-1]].special)
            self._prompt_lengths[prompt] = length
        return length

    def token_id(self, token: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    def _truncate(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], side: Side) -> Encodings:
        return truncate(ids, offsets, self.max_tokens, prefix=len(self._prefix), suffix=len(self._suffix), side=side)

    def _cached(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int32]], int]:
        """Return each text's ids, and the number of texts that were in the cache."""
        rows = [self._cache.get(text) if len(text) <= CACHED_CHARACTERS else None for text in texts]
        missing = [index for index, row in enumerate(rows) if row is None]
        for index, ids in zip(missing, self._slow([texts[index] for index in missing]), strict=True):
            rows[index] = row = np.asarray(ids, np.int32)
            if len(text := texts[index]) <= CACHED_CHARACTERS:
                row.flags.writeable = False
                self._cache.put(text, row, row.nbytes + 4 * len(text) + ENTRY_BYTES)
        return [row for row in rows if row is not None], len(texts) - len(missing)

    def _slow(self, texts: Sequence[str]) -> Sequence[Sequence[int] | NDArray[np.int32]]:
        """Return the ids of each text from HuggingFace's library."""
        if self._ends is not None and any(len(text) > PIECE for text in texts):
            return [self._framed_long(text) if len(text) > PIECE else self._slow([text])[0] for text in texts]
        if len(texts) == 1:  # `encode` is faster for one text, because it does not distribute work to threads
            ids: list[int] = self._tokenizer.encode(texts[0]).ids
            return [ids]
        # `encode_batch_fast` leaves out the character offsets, which are not used here.
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]

    def _framed_long(self, text: str) -> NDArray[np.int32]:
        return self.framed(np.concatenate(list(self._parts(text))))

    def _parts(self, text: str) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of a text without special tokens, a part at a time."""
        if not isinstance(text, str):
            raise InputError(_explain([text]))
        try:
            parts = iter([text]) if self._ends is None else pieces(text, self._ends)
            if self._fast is not None:
                yield from map(self._fast.encode_plain, parts)
                return
            while group := list(islice(parts, PIECES)):
                encodings = self._tokenizer.encode_batch_fast(group, add_special_tokens=False)
                yield from (np.array(encoding.ids, np.int32) for encoding in encodings)
        except (TypeError, UnicodeEncodeError):
            raise InputError(_explain([text])) from None
        except BaseException as error:
            raise_panic(error)
            raise


def raise_panic(error: BaseException) -> None:
    """Raise an `InputError` for a panic of a tokenizer's library, which is not an `Exception`; return for other errors.

    A panic ends the call and not the process, so the server answers and goes on.
    """
    if type(error).__name__ == "PanicException":
        raise InputError(
            f"the tokenizer's library fails on a text ({' '.join(str(error).split())[:200]}): shorten or change the text"
        ) from None


def _join(rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return rows as one flat array, and their offsets."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    if len(rows) == 1:
        return np.asarray(rows[0], np.int32), offsets
    return np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1])), offsets


def _special_ids(tokenizer: HuggingFaceTokenizer, path: Path) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the ids that the tokenizer puts before a text, and those that it puts behind it.

    Raises:
        ArtifactError: the tokenizer adds special tokens, and every tried text gives only special tokens.
    """
    special = np.array(tokenizer.encode("").ids, np.int32)
    if not len(special):
        return special, special
    for probe in chain(("a", "0", ".", "的"), _shortest_tokens(tokenizer)):
        mask = tokenizer.encode(probe).special_tokens_mask
        if 0 in mask:
            num_prefix = mask.index(0)
            return special[:num_prefix], special[num_prefix:]
    raise ArtifactError(f"{path} gives only special tokens for every tried text: it is not a tokenizer for texts")


def _shortest_tokens(tokenizer: HuggingFaceTokenizer) -> Iterator[str]:
    """Yield the vocabulary's shortest tokens. A vocabulary of one script may lack tokens for letters of other scripts."""
    yield from sorted(tokenizer.get_vocab(with_added_tokens=False), key=len)[:1000]


def _explain(texts: Sequence[str]) -> str:
    """Return a sentence that names the text that could not be tokenized, and the reason."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            return f"text {index} is {type(text).__name__}, not a string"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            return (
                f"text {index} holds the lone surrogate U+{code:04X} at character {error.start}, which is not valid "
                "Unicode: decode the text with errors='replace', or remove it"
            )
    return UNEXPLAINED
