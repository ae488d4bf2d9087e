"""Texts on which tokenizers often disagree. A fast tokenizer is used only if it reproduces the reference on all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

__all__ = ["hostile_texts"]

#: Distance between the sampled code points, and their bound. The bound includes emoji and the first supplementary plane.
STRIDE = 61
LAST = 0x20000

#: Largest number of added tokens that are used: the first, the last, and some between them.
ADDED = 32

_FIXED = (
    "",
    " ",
    "\t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000\ufeff",
    "a\x00b\x01c\x1f\x7f\x9fd\u200be\u2060f\ufffdg\ufffeh\uffff",
    "un##known ##ing a##b",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101 + " " + "w" * 500,
    "don't we'll I'm can't it's -1.5e-07, 0x1F 1_000_000 3.14159 1,234.56 $5 50% #1 a@b.c http://x.y/z?q=1&r=2",
    "\u0130\u0131\u0049\u0069 \u1e9e\u00df \u017f \u0149 \u01c5 \ufb03 \ufdfa \u3392 \u2126 \u212b \u00b5",
    "e\u0301 \u00e9 n\u0303 \u00f1 o\u0308\u0304 \u1ea5 \u0301alone \u0e01\u0e33 \u0915\u093c \u0958",
    "\u4e2d\u6587\u5b57 a\u4e2db \u3042\u30a2\uff71 \ud55c\uae00 \u1112\u1161\u11ab \u3400 \U00020000 \uf900",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u200fabc\u200e",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e8\U0001f1ed \U0001f44d\U0001f3fd 1\ufe0f\u20e3 \u2764\ufe0f",
    "\u0660\u0661 \u0966\u0967 \u2460 \u2167 \u00bd \u00b2 \u4e00\u4e8c \U0001d7d8",
    "\U0001d518\U0001d52b\U0001d526 \u24d0\u24d1 \uff21\uff22 \u2100 \u00aa\u00ba",
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2018\u2019\u201c\u201d\u2026\u2030\u20ac\u00a3\u00a9\u00ae\u2122\u00b0",
    "soft\u00adhyphen zero\u200bwidth join\u200der byte\ufeffmark \u034fgrapheme \ue000private \U000e0041tag",
    "ALL CAPS MiXeD \u00c0\u00c9\u00ce \u0410\u0411\u0412 \u0391\u0392\u0393\u03a3 \u03c3\u03c2",
)


def hostile_texts(special: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return several hundred texts, the same in every call.

    Args:
        special: the vocabulary's added tokens. The texts contain them inside words and next to each other.
        words: some other tokens of the vocabulary.
    """
    texts = list(_FIXED)
    for token in _spread(special, ADDED):
        texts += [
            token,
            f"a{token}b",
            f"{token}{token}",
            f" {token} ",
            token.lower(),
            token[:-1],
            f"\u0301{token}\u0301",
        ]
    characters = [chr(code) for code in range(0x20, LAST, STRIDE) if not 0xD800 <= code < 0xE000]
    texts += ["".join(group) for group in _groups(characters, 24)]
    # A character between two letters may end the word, be removed, or belong to the word.
    texts += ["".join(f"a{character}b " for character in group) for group in _groups(characters, 24)]
    texts += ["".join(group) for group in _groups(_of_every_category(), 16)]
    texts += [" ".join(group) for group in _groups(words, 24)]
    texts += ["".join(word.removeprefix("##") for word in group) for group in _groups(words, 6)]
    return texts


def _spread(items: Sequence[str], number: int) -> list[str]:
    """Return at most `number` of the items, spread evenly from the first to the last."""
    if len(items) <= number:
        return list(items)
    return [items[place * (len(items) - 1) // (number - 1)] for place in range(number)]


def _of_every_category() -> Iterator[str]:
    """Yield up to 40 characters of each general category (table 12 of Unicode's UAX 44), each between two letters."""
    counts: dict[str, int] = {}
    for code in range(0x20, 0x3000):
        if 0xD800 <= code < 0xE000:
            continue
        category = unicodedata.category(chr(code))
        counts[category] = counts.get(category, 0) + 1
        if counts[category] <= 40:
            yield f"x{chr(code)}Y "


def _groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
