"""Texts for both sides: each depends on a setting or a file that does not affect the others."""

from __future__ import annotations

__all__ = ["ADDED", "PAIRS", "PROMPTED", "TEXTS"]

#: Tokens that mutants add.
ADDED = ("<doc>", "[NEW]", "newtoken", "query:")

_LONG = " ".join(f"{letter} cat {letter}" for letter in "abcdefghijklmnopqrstuvwxyz")

TEXTS: tuple[str, ...] = (
    "the cat",
    "",
    "Café RÉSUMÉ Ünd The CAT",
    "  leading and trailing blanks  ",
    "<doc>",
    "a<doc>b the <doc> cat",
    "[NEW] the[NEW]cat newtoken anewtokenb query: cat",
    "[unused1] [MASK] <mask> a[SEP]b </s> [CLS] <s> [PAD] <pad> [UNK]",
    _LONG,
    f"the doc {_LONG} search",
    "北京 是 the北京",
    "a\x85b\tc\nd\r\n e\xa0f\u200bg",
    "don't stop-now, 3.14! (a/b) [c]: ½ ﬁ",
    "antidisestablishment" * 6,
    "e\u0301 I\u0130\xdf\u03a3 \U0001f44d",
)

#: Texts to embed with each prompt of the checkpoint.
PROMPTED: tuple[str, ...] = (" Café <doc>", "", f"{_LONG} search")

#: Pairs of texts for rerankers.
PAIRS: tuple[tuple[str, str], ...] = (*(("the query: <doc>", text) for text in TEXTS), ("", "cat"), (_LONG, _LONG))
