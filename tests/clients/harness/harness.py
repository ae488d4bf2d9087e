"""The part that all Python drivers share. It runs in the client's environment, so it imports the standard library alone."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENTS", "QUERY", "TEXTS", "call", "report"]

_OUTPUT, _INPUTS = Path(sys.argv[1]), json.loads(sys.argv[2])

#: Texts to embed, query, and documents to rank.
TEXTS: list[str] = _INPUTS["texts"]
QUERY: str = _INPUTS["query"]
DOCUMENTS: list[str] = _INPUTS["documents"]

_calls: list[tuple[str, str, Callable[[], Any]]] = []


def call(name: str, expected: str = "vectors") -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function, possibly async, that makes one call of the client and returns its result.

    Args:
        name: name in the table, as the client's documentation writes the call.
        expected: kind of the right result: `vectors`, `ranking` (pairs of index and score, the best first), and others that
            `fault` in reference.py lists.
    """

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        _calls.append((name, expected, function))
        return function

    return register


def report() -> None:
    """Make all calls and write their results into the file that the test named."""
    _OUTPUT.write_text(json.dumps([_made(*entry) for entry in _calls], default=float), encoding="utf-8")


def _made(name: str, expected: str, function: Callable[[], Any]) -> dict[str, Any]:
    try:
        result = function()
        if asyncio.iscoroutine(result):
            result = asyncio.run(result)
    except Exception as error:  # noqa: BLE001  every error of a client is a result of its call
        return {"name": name, "expected": expected, "error": f"{type(error).__name__}: {error}"}
    return {"name": name, "expected": expected, "value": result}
