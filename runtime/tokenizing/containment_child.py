"""The child process of `containment.py`: it checks the rules of a tokenizer file, opens it, and tokenizes difficult texts.

It prints one line with the problem and exits with 1, or exits with 0.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .tokenizer import Tokenizer

__all__ = ["main"]

#: Ids are smaller: a table of all ids has to fit into memory. The largest vocabularies have 500,000 tokens.
LARGEST_ID = 1 << 22

#: Longest text that a rule may insert for each match, and longest list of special tokens around a text.
LONGEST_INSERTION, MOST_SPECIAL = 256, 64

#: Longest regular expression. That of o200k has about 500 characters.
LONGEST_PATTERN = 4096

#: Longest token. SentencePiece's have up to 16 characters, added ones more.
LONGEST_TOKEN = 1000

#: Largest number of tokens of a byte of text. Unicode decomposes U+FDFA, of three bytes, into 33 bytes.
MOST_TOKENS = 16

#: Seconds for one text of at most 8,192 characters. Millions of characters a second are usual.
LONGEST_TEXT = 2.0

#: Lengths of the texts that consist of one character or of two. The short ones show exponential time, the long one quadratic.
LENGTHS = (40, 4000)

#: Longest input: texts must not be truncated.
UNLIMITED = 2**31 - 1


class Problem(Exception):  # noqa: N818  it is a finding, which `main` prints
    """A property of the file that makes it unsafe."""


def main(path: str) -> None:
    """Check a file, and end the process."""
    try:
        _check_rules(path)
        _check_texts(path)
    except BaseException as error:  # noqa: BLE001  a panic of Rust is not an Exception
        sys.stdout.write(f"{_describe(error)}\n")
        sys.stdout.flush()
        sys.exit(1)


def _describe(error: BaseException) -> str:
    if isinstance(error, Problem):
        return str(error)
    text = " ".join(str(error).split())[:300]
    if type(error).__name__ == "PanicException":
        return f"its library panics: {text}"
    return f"it cannot be used ({type(error).__name__}: {text})"


# Rules ----------------------------------------------------------------------------------------------------------------


def _check_rules(path: str) -> None:
    """Raise `Problem` if the file has ids, insertions or regular expressions that cost too much."""
    content = json.loads(Path(path).read_bytes())
    if not isinstance(content, dict):
        raise Problem("it is not a JSON object")
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
        _check_ids(ids)
    added = content.get("added_tokens") or []
    _check_ids([token.get("id") for token in added])
    if any(len(token.get("content") or "") > LONGEST_TOKEN for token in added):
        raise Problem(f"a token has more than {LONGEST_TOKEN} characters")
    for rule in _dicts([content.get("normalizer"), content.get("pre_tokenizer"), content.get("decoder")]):
        _check_rule(rule)
    for part in _dicts(content.get("post_processor")):
        if any(isinstance(value, list) and len(value) > MOST_SPECIAL for value in part.values()):
            raise Problem(f"it puts more than {MOST_SPECIAL} special tokens around a text")


def _check_ids(ids: Iterable[Any]) -> None:
    for number in ids:
        if not isinstance(number, int) or not 0 <= number < LARGEST_ID:
            raise Problem(f"a token has the id {str(number)[:50]}, and {LARGEST_ID - 1} is the largest allowed")


def _check_rule(rule: dict[str, Any]) -> None:
    for key in ("content", "prepend", "replacement"):
        value = rule.get(key)
        if isinstance(value, str) and len(value) > LONGEST_INSERTION:
            raise Problem(f"the rule {rule.get('type')} inserts {len(value)} characters for each match")
    pattern = rule.get("Regex")
    if isinstance(pattern, str):
        if len(pattern) > LONGEST_PATTERN:
            raise Problem(f"a regular expression has {len(pattern)} characters")
        if _repeats_repetition(pattern):
            raise Problem(
                f"the regular expression {pattern[:100]!a} repeats a repetition, which takes exponential time"
            )


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a value, at any depth."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _dicts(part)


def _repeats_repetition(pattern: str) -> bool:
    """Return whether an unbounded quantifier follows a group that contains one, as in `(x+x+)+`, or alternatives."""
    groups: list[bool] = []  # of each open group: whether it has an unbounded quantifier or alternatives
    closed: bool | None = None  # the same of the group that has just ended
    at = 0
    while at < len(pattern):
        one = pattern[at]
        quantifier = re.match(r"[*+]|\{\d*,\}", pattern[at:])
        if one == "\\":
            at, closed = at + 2, None
            continue
        if one == "[":
            at, closed = _end_of_class(pattern, at), None
            continue
        if quantifier is not None:
            if closed:
                return True
            groups = [True] * len(groups)
            at, closed = at + quantifier.end(), None
            continue
        if one == "(":
            groups.append(False)
        elif one == "|":
            groups = [*groups[:-1], True] if groups else groups
        closed = groups.pop() if one == ")" and groups else None
        at += 1
    return False


def _end_of_class(pattern: str, start: int) -> int:
    """Return the position behind a character class, in which others may be nested."""
    depth, at = 0, start
    while at < len(pattern):
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 2 if pattern[at] == "\\" else 1
        if depth == 0:
            break
    return at


# Texts ----------------------------------------------------------------------------------------------------------------


def _check_texts(path: str) -> None:
    """Open the tokenizers as a load does, and tokenize texts.

    Raises:
        Problem: a text takes too long or becomes too many tokens.
    """
    tokenizer = Tokenizer(Path(path), UNLIMITED)
    slow = Tokenizer(Path(path), UNLIMITED, fast=False, cache_bytes=0)
    patterns = [
        rule["Regex"] for rule in _dicts(json.loads(Path(path).read_bytes())) if isinstance(rule.get("Regex"), str)
    ]
    for text in _texts(patterns):
        for each in (tokenizer, slow):
            started = time.process_time()
            tokens = each.encode([text]).num_tokens
            if time.process_time() - started > LONGEST_TEXT:
                raise Problem(f"{len(text)} characters of {text[:2]!a} take more than {LONGEST_TEXT:g} s")
            if tokens > MOST_TOKENS * len(text.encode()) + 2 * MOST_SPECIAL:
                raise Problem(f"{len(text)} characters of {text[:2]!a} become {tokens} tokens")
    slow.encode_pairs(["a word"], ["another one"])
    slow.describe(["a word"], special=True)


def _texts(patterns: Iterable[str]) -> Iterator[str]:
    """Yield texts of one repeated character, and of two that a regular expression names, with another one at the end."""
    letters = sorted(set("".join(patterns)))[:12]
    # A library looks for a letter that every match needs before it tries: the end has them all, where they do not match.
    end = "\x00" + "\x00".join(letters)
    alphabet = [chr(code) for code in range(0x20, 0x7F)] + ["\n", "\u00e9", "\u0301", "\u4e2d", "\ufdfa", "\U0001f469"]
    for length in LENGTHS:
        for one in alphabet:
            yield one * length
            yield one * length + end
        for first in letters:
            for second in letters:
                yield (first + second) * (length // 2) + end
