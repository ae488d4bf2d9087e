"""`standins`: puts the world's clock, threads and random numbers into the server's modules, and takes them out again."""

from __future__ import annotations

import random
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, _base
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from fletcher.serve.engine.breaker import Breaker

from .threads import Executor, Threading
from .world import the_world

__all__ = ["Time", "standins"]


class Time:
    """The module `time` in a world."""

    monotonic = perf_counter = staticmethod(lambda: the_world().now)
    monotonic_ns = staticmethod(lambda: int(the_world().now * 1e9))
    time = staticmethod(lambda: 1.7e9 + the_world().now)
    sleep = staticmethod(lambda seconds: the_world().sleep(seconds))


class _Random:
    """The module `random` in a world."""

    def __getattr__(self, name: str) -> Any:
        return getattr(the_world().chance, name)


#: Real modules and classes with what stands in for them.
REPLACED: list[tuple[str, object, object]] = [
    ("threading", threading, Threading),
    ("time", time, Time),
    ("random", random, _Random()),
    (
        "secrets",
        secrets,
        SimpleNamespace(token_hex=lambda size: f"{the_world().chance.getrandbits(8 * size):0{2 * size}x}"),
    ),
    ("ThreadPoolExecutor", ThreadPoolExecutor, Executor),
]

#: Packages whose modules get the stand-ins.
PACKAGES = (
    "fletcher.serve.",
    "fletcher.runtime.fleet.",
    "fletcher.runtime.byte_cache",
    "fletcher.runtime.machine.affinity",
)


def _modules() -> list[ModuleType]:
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(PACKAGES)]


@contextmanager
def standins() -> Iterator[None]:
    """Replace clock, threads and random numbers in the modules of the server that are imported."""
    with mock.patch.object(_base, "threading", Threading):
        changed = []
        try:
            for module in _modules():
                for name, old, new in REPLACED:
                    if vars(module).get(name) is old:
                        setattr(module, name, new)
                        changed.append((module, name, old))
            clock = {"clock": Time.monotonic}
            with mock.patch.dict(Breaker.__init__.__kwdefaults__, clock):
                yield
        finally:
            for module, name, old in changed:
                setattr(module, name, old)
