"""`Case`: one text of a verification, or a pair, with the features of it that decide which settings it exercises."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

__all__ = [
    "ACCENTS",
    "ADDED",
    "ANY",
    "BLANK",
    "BLANKS",
    "CAPITALS",
    "CJK",
    "COMPATIBILITY",
    "CONTROL",
    "EMOJI",
    "LONG",
    "LONG_WORD",
    "MARKS",
    "NEXT_LINE",
    "PAIR",
    "SPACES",
    "SPECIAL",
    "ZERO_WIDTH",
    "Case",
    "features_of",
    "prompt_feature",
]

#: Features of a text, as reports name them.
ANY = "any text"
CAPITALS = "capitals"
ACCENTS = "accents"
MARKS = "combining marks"
BLANKS = "leading or trailing blanks"
SPACES = "white space other than single blanks"
CONTROL = "control characters"
NEXT_LINE = "U+0085"
ZERO_WIDTH = "zero-width characters"
CJK = "Chinese characters"
EMOJI = "emoji and characters outside the basic plane"
COMPATIBILITY = "compatibility forms"
LONG_WORD = "words of more than 100 characters"
BLANK = "no visible character"
ADDED = "added tokens"
SPECIAL = "special tokens"
LONG = "more tokens than the limit"
PAIR = "a query before them"


@dataclass(frozen=True, slots=True)
class Case:
    """Text to compare.

    Attributes:
        text: text without its prompt.
        input_type: input type, whose prompt is added; `pair` for a pair.
        query: first text of a pair.
        ids_only: whether only the token ids are compared.
        features: features of the text.
    """

    text: str
    input_type: str
    query: str | None = None
    ids_only: bool = False
    features: frozenset[str] = frozenset((ANY,))


def prompt_feature(name: str) -> str:
    """Return the feature of texts with a prompt."""
    return f"the prompt {name!r}"


def features_of(text: str, added: Collection[str] = (), special: Collection[str] = ()) -> frozenset[str]:
    """Return the features of a text that it has by itself, whatever its prompt and the limit.

    Args:
        text: the text.
        added: added tokens of the tokenizer.
        special: its special tokens.
    """
    return frozenset((ANY, *_features(text, added, special)))


def _features(text: str, added: Collection[str], special: Collection[str]) -> Iterator[str]:
    without_tokens = text
    for token in sorted((*added, *special), key=len, reverse=True):
        without_tokens = without_tokens.replace(token, "")
    if without_tokens != without_tokens.lower():
        yield CAPITALS
    decomposed = unicodedata.normalize("NFD", text)
    if any(unicodedata.category(char) == "Mn" for char in decomposed):
        yield ACCENTS
    if unicodedata.normalize("NFC", text) != text:
        yield MARKS
    if unicodedata.normalize("NFKC", text) != unicodedata.normalize("NFC", text):
        yield COMPATIBILITY
    if not text.strip():
        yield BLANK
    elif text != text.strip():
        yield BLANKS
    if "  " in text or any(char.isspace() and char not in " \x85" for char in text):
        yield SPACES
    if any(unicodedata.category(char) == "Cc" and char not in "\t\n\r\x85" for char in text):
        yield CONTROL
    if "\x85" in text:
        yield NEXT_LINE
    if any(unicodedata.category(char) == "Cf" for char in text):
        yield ZERO_WIDTH
    if any("\u3400" <= char <= "\u9fff" for char in text):
        yield CJK
    if any(ord(char) > 0xFFFF for char in text):
        yield EMOJI
    if any(len(word) > 100 for word in text.split()):
        yield LONG_WORD
    if any(token and token in text for token in added):
        yield ADDED
    if any(token and token in text for token in special):
        yield SPECIAL
