"""Sample texts that exist on every machine: the docstrings of Python's standard library, and their first sentences."""

from __future__ import annotations

import ast
import random
import sysconfig
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, get_args

__all__ = ["CORPORA", "Corpus", "corpus", "docstrings"]

Corpus = Literal["docstrings", "sentences"]
CORPORA: tuple[Corpus, ...] = get_args(Corpus)

#: Smallest and largest number of characters of a sentence, about the lengths that people type into a search box.
SHORTEST, LONGEST = 15, 90


def corpus(name: Corpus, count: int, seed: int = 0) -> list[str]:
    """Return different texts in an order that the seed determines.

    Args:
        name: `docstrings`, with a mean of about 60 tokens and a few much longer texts, or `sentences`, about 12 tokens each.
        count: number of texts. If the library has fewer, texts repeat with a number in front, so that all are different.
        seed: seed of the order.
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


def docstrings(root: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield file and docstring of modules, classes and functions, without importing them.

    Args:
        root: folder of the modules. Default: Python's standard library.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests"} & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # files for another version of Python, such as lib2to3's in Python 2
            continue
        for node in _statements(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if text := ast.get_docstring(node):
                yield str(path.relative_to(root)), text


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes of a module in the order of `ast.walk`, without expressions, which are most of them."""
    queue: deque[ast.AST] = deque([tree])
    while queue:
        node = queue.popleft()
        yield node
        queue.extend(
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case)
        )


@cache
def _docstrings() -> tuple[str, ...]:
    """Return every different docstring of the library."""
    return tuple(dict.fromkeys(text for _, text in docstrings()))
