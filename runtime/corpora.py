"""Texts that every machine has: the docstrings of Python's standard library, and their first sentences."""

from __future__ import annotations

import ast
import random
import sysconfig
from functools import cache
from pathlib import Path
from typing import Literal, get_args

__all__ = ["CORPORA", "Corpus", "corpus"]

Corpus = Literal["docstrings", "sentences"]
CORPORA: tuple[Corpus, ...] = get_args(Corpus)

#: Characters of a short sentence: what a person types into a search box.
SHORTEST, LONGEST = 15, 90


def corpus(name: Corpus, count: int, seed: int = 0) -> list[str]:
    """Different texts in an order that the seed decides.

    Args:
        name: `docstrings`, a mean of about 60 tokens with a long tail, or `sentences`, a dozen tokens each.
        count: how many; beyond what the library has, texts come again with a number, so that none equals another.
        seed: of the order.
    """
    texts = list(_docstrings())
    if name == "sentences":
        first = (text.split("\n\n")[0].split(". ")[0].replace("\n", " ") for text in texts)
        texts = list(dict.fromkeys(text for text in first if SHORTEST <= len(text) <= LONGEST))
    random.Random(seed).shuffle(texts)
    chosen = []
    for row in range(count):
        turn, place = divmod(row, len(texts))
        chosen.append(texts[place] if turn == 0 else f"{turn}: {texts[place]}")
    return chosen


@cache
def _docstrings() -> tuple[str, ...]:
    """Every different docstring of the library's modules, classes and functions, read without importing anything."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # lib2to3 keeps some Python 2 for its own use
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found[ast.get_docstring(node) or ""] = None
    found.pop("", None)
    return tuple(found)
