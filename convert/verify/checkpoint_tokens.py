"""Words and tokens of a checkpoint, from which texts are made: read from the files themselves and from the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.json_files import find_json

__all__ = ["CheckpointTokens", "read_checkpoint_tokens", "spread"]

#: Characters that tokenizers put before or after a word's part.
MARKERS = ("##", "▁", "Ġ", "</w>", "@@")

#: Number of words of the vocabulary that texts are made of.
WORDS = 24

#: Number of added tokens that are compared; of more tokens an even sample is taken.
MOST_TOKENS = 300


@dataclass(frozen=True, slots=True)
class CheckpointTokens:
    """Words and tokens that a tokenizer treats in its own way.

    Attributes:
        words: words of the vocabulary, those in lower case first.
        added: added tokens that are not special.
        special: special tokens.
        left_out: number of added tokens that no text holds, because there are too many.
    """

    words: tuple[str, ...]
    added: tuple[str, ...]
    special: tuple[str, ...]
    left_out: int = 0

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return added and special tokens."""
        return self.special + self.added


def read_checkpoint_tokens(folder: Path, tokenizer: Any) -> CheckpointTokens:
    """Return the words and tokens of a checkpoint.

    Args:
        folder: the folder of the tokenizer's files.
        tokenizer: transformers' tokenizer of it.
    """
    special, added = dict.fromkeys(tokenizer.all_special_tokens), dict[str, None]()
    for token, is_special in (*_in_files(folder), *((token, False) for token in tokenizer.get_added_vocab())):
        if is_special:
            special[token] = None
        added[token] = None
    plain = [token for token in added if token not in special]
    kept = spread(plain, MOST_TOKENS)
    ids = tokenizer.get_vocab()
    words = _words(sorted(ids, key=ids.__getitem__), {*special, *added})
    return CheckpointTokens(words, tuple(kept), tuple(special), left_out=len(plain) - len(kept))


def _in_files(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield each token that a file adds, and whether the file calls it special."""
    listed = find_json(folder / "tokenizer.json").get("added_tokens")
    settings = find_json(folder / "tokenizer_config.json")
    decoder = settings.get("added_tokens_decoder")
    entries = [
        *(listed if isinstance(listed, list) else ()),
        *(decoder.values() if isinstance(decoder, dict) else ()),
    ]
    for entry in entries:
        if isinstance(entry, Mapping):
            yield str(entry.get("content", "")), bool(entry.get("special"))
    for token in find_json(folder / "added_tokens.json"):
        yield token, False
    for values in (settings, find_json(folder / "special_tokens_map.json")):
        for name, value in values.items():
            if name.endswith(("_token", "special_tokens")):
                for token in value if isinstance(value, list) else [value]:
                    content = token.get("content") if isinstance(token, Mapping) else token
                    if isinstance(content, str) and content:
                        yield content, True


def _words(vocabulary: Sequence[str], tokens: set[str]) -> tuple[str, ...]:
    """Return words of the vocabulary, evenly spread over it; those in lower case come first."""
    words: dict[str, None] = {}
    for entry in vocabulary:
        word = entry
        for marker in MARKERS:
            word = word.replace(marker, "")
        if word.isalnum() and not word.isdigit() and entry not in tokens:
            words[word] = None
    lower = [word for word in words if word.isascii() and word == word.lower()]
    rest = [word for word in words if not (word.isascii() and word == word.lower())]
    chosen = [*spread(lower, WORDS * 2 // 3), *spread(rest, WORDS - WORDS * 2 // 3)]
    return tuple(chosen) or ("a", "word")


def spread(items: Sequence[str], count: int) -> list[str]:
    """Return at most `count` items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
