"""Ragged English texts that every machine has: the docstrings of Python's standard library, and their first sentences."""

from __future__ import annotations

import ast
import random
import sysconfig
from pathlib import Path

__all__ = ["ragged_texts"]


def ragged_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of a few to a few hundred words, half of them one sentence, in an order that the seed decides.

    Args:
        count: how many; beyond what the library has, texts come again with a number, so that none equals another.
        seed: of the order.
    """
    long = _docstrings()
    whole = set(long)
    sentences = (text.split(". ")[0].split("\n\n")[0] for text in long)
    short = list(dict.fromkeys(text for text in sentences if text not in whole))
    generator = random.Random(seed)
    generator.shuffle(long)
    generator.shuffle(short)
    texts = []
    for row in range(count):
        pool = long if row % 2 else short
        turn, place = divmod(row // 2, len(pool))
        texts.append(pool[place] if turn == 0 else f"{turn}: {pool[place]}")
    return texts


def _docstrings() -> list[str]:
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
    return list(found)
