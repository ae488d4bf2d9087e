"""Splitting of a very long text into pieces whose tokens, joined, equal those of the whole text.

The tokenizers library allocates a split for every word of the text at once: 10 MB of full stops took 5 GB. Pieces bound
this memory, and they are tokenized on several threads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

__all__ = ["PIECE", "ends_of", "pieces"]

#: Approximate characters of a piece; texts up to this length are never cut.
PIECE = 1 << 16

# BERT's pre-tokenizer ends a word at each of these characters (its normalizer puts spaces around the Chinese ones), so no
# token spans a cut behind one of them. Brackets are left out because special tokens such as [SEP] contain them. Blanks that
# the normalizer removes as control characters are left out too.
_BERT_ENDS = re.compile(r"[ \t\n\r.,;:!?\u4e00-\u9fff]")

# In byte-level and SentencePiece vocabularies a word begins with its space. The cut is before a single space between two
# ASCII letters: no normalizer below joins or changes those three characters, and no piece begins or ends with characters
# that the tokenizer would add, strip, or treat as the end of the text.
_SPACED_ENDS = re.compile(r"[A-Za-z](?= [A-Za-z])")

#: Pre-tokenizers that begin a word at every such space, with the option that turns this off, and pre-tokenizers that only cut
#: words further.
_SPLITTING = {"ByteLevel": "use_regex", "Metaspace": "split", "Whitespace": None, "WhitespaceSplit": None}
_CUTTING = frozenset({"Punctuation", "Digits"})

#: Patterns of the pre-tokenizer `Split` that begin a word at every such space: those of Qwen 2 and 3, and of Llama 3. No
#: alternative has a letter and a blank behind it, and none looks back.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{COUNT}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLIT_PATTERNS = frozenset({_WORDS.replace("{COUNT}", count) for count in ("", "{1,3}")})

#: Normalizers that change each character with its marks independently of its position in the text.
_LOCAL = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Precompiled", "BertNormalizer"})


def ends_of(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Return a pattern for the ends of pieces, or None if no pattern is known for this tokenizer.

    No token spans a cut behind a match of the pattern.
    """
    added = list(tokenizer.get_added_tokens_decoder().values())
    if isinstance(tokenizer.pre_tokenizer, BertPreTokenizer):
        normal = isinstance(tokenizer.normalizer, BertNormalizer) and bool(tokenizer.normalizer.handle_chinese_chars)
        return None if not normal or any(_BERT_ENDS.search(token.content) for token in added) else _BERT_ENDS
    steps = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    if not any(_splits(step) for step in steps) or not all(_splits(step) or _cuts_further(step) for step in steps):
        return None
    if not all(_is_local(step) for step in _steps(tokenizer.normalizer, "normalizers")):
        return None
    # An added token must not end with a blank or absorb the blank behind it: that blank belongs to the next piece.
    if any(re.search(r"\S ", token.content) or (token.rstrip and token.content[-1:] not in ">]}|") for token in added):
        return None
    return _SPACED_ENDS


def pieces(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    """Yield the text in pieces of at least `PIECE` characters, except the last. Each piece ends at a match of `ends`."""
    start = 0
    while len(text) - start > PIECE:
        end = ends.search(text, start + PIECE - 1)
        if end is None:
            break
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _steps(part: Any, several: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer as the tokenizer file describes them; None has no steps."""
    if part is None:
        return []
    description: dict[str, Any] = json.loads(part.__getstate__())
    return list(description[several]) if description["type"] == "Sequence" else [description]


def _cuts_further(step: dict[str, Any]) -> bool:
    """Return whether a step only cuts words further, or writes them in another alphabet, each on its own."""
    return step["type"] in _CUTTING or step["type"] == "ByteLevel"


def _splits(step: dict[str, Any]) -> bool:
    name = step["type"]
    if name == "Split":
        return step["pattern"].get("Regex") in _SPLIT_PATTERNS and step["behavior"] == "Isolated" and not step["invert"]
    option = _SPLITTING.get(name)
    return name in _SPLITTING and (option is None or bool(step[option]))


def _is_local(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":  # local if it replaces runs of blanks, or a string without blanks
        pattern: dict[str, str] = step["pattern"]
        return pattern.get("Regex") == " {2,}" or " " not in pattern.get("String", " ")
    return step["type"] in _LOCAL
