"""Recognition of heavy tests: tests that use torch, real weights, separate processes, or the stand-in for Longbow."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

__all__ = ["is_heavy"]

#: Modules whose use makes a test heavy.
MODULES = frozenset({"torch", "transformers", "sentence_transformers", "subprocess", "multiprocessing"})

#: Helpers whose use makes a test heavy, though their code names no heavy module: `shared` calls a function of a mapping.
HELPERS = frozenset({"shared"})

#: Fixtures whose use makes a test heavy: they fetch or convert real weights, make models of torch with functions that they
#: import themselves, or wait for the timeouts of a database.
FIXTURES = frozenset(
    {"minilm_checkpoint", "minilm_artifact", "tiny_checkpoint", "bge_m3_checkpoint", "longbow", "longbow_url"}
)


def is_heavy(test: pytest.Function) -> bool:
    """Report whether a test, a fixture that it requests, or a helper of theirs in `tests` names a heavy module or fixture.

    A helper that is reachable only through a container, such as a dictionary of functions, is not checked.
    """
    if FIXTURES & set(test.fixturenames):
        return True
    fixtures = [fixture.func for defined in test._fixtureinfo.name2fixturedefs.values() for fixture in defined]
    visited: set[object] = set()
    return any(_reaches(used, visited) for used in (test.function, *fixtures))


def _reaches(used: Any, visited: set[object]) -> bool:
    """Report whether a function or class names a heavy module, directly or through other code in `tests`."""
    if isinstance(used, type):
        return any(_reaches(member, visited) for member in vars(used).values() if isinstance(member, FunctionType))
    used = getattr(used, "__wrapped__", used)
    if not isinstance(used, FunctionType) or used in visited or not used.__module__.startswith("tests"):
        return False
    visited.add(used)
    for name in _names(used.__code__):
        value = used.__globals__.get(name)
        module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if name in HELPERS or MODULES & {name, str(module).partition(".")[0]}:
            return True
        if str(module).startswith("tests") and _reaches(value, visited):
            return True
    return False


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a code object and the functions inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
