"""`Subject`: the server and the machine that the checks examine."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fletcher.model_zoo.sources.cache import cache_folder
from fletcher.runtime.machine.gpus import GpuSystem, this_gpus
from fletcher.runtime.machine.machine import Machine, this_machine

from ..engine.backend import Backend
from ..models.spec import ModelSpec
from ..server_options import ServerOptions
from ..surroundings import load_encoder

__all__ = ["Subject", "clock_synchronized"]

#: State of `adjtimex(2)` of a clock that nothing synchronizes (TIME_ERROR of timex.h), and bytes enough for its struct.
TIME_ERROR, TIMEX_BYTES = 5, 512


def clock_synchronized() -> bool | None:
    """Return whether NTP or PTP synchronizes the clock, as the kernel reports it; None if it does not report it."""
    if sys.platform != "linux":
        return None
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except AttributeError:
        return None
    return None if state < 0 else bool(state != TIME_ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A server that shall run on this machine, with the machine's state as functions that tests replace.

    Attributes:
        options: options of the server.
        specs: models to serve.
        root: folder that contains `proc`, `sys` and `dev`.
        machine: processors and memory.
        gpus: returns the GPUs and the driver.
        environment: environment variables.
        user: number of the user.
        files: limits of open files: the present one and the highest.
        cache: folder of caches.
        synchronized: returns whether something synchronizes the clock; None if that is not known.
        load: opens a model, and checks its files and its canary.
    """

    options: ServerOptions
    specs: Sequence[ModelSpec] = ()
    root: Path = Path("/")
    machine: Machine = field(default_factory=this_machine)
    gpus: Callable[[], GpuSystem] = this_gpus
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    user: int = field(default_factory=os.geteuid)
    files: tuple[int, int] = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE))
    cache: Path = field(default_factory=lambda: cache_folder(None))
    synchronized: Callable[[], bool | None] = clock_synchronized
    load: Callable[[ModelSpec], Backend] = load_encoder

    @property
    def in_container(self) -> bool:
        """Return whether the server runs in a container."""
        named = "KUBERNETES_SERVICE_HOST" in self.environment or "container" in self.environment
        return named or any((self.root / name).exists() for name in (".dockerenv", "run/.containerenv"))

    def read(self, path: str) -> str:
        """Return the text of a file of the system, or an empty text."""
        try:
            return (self.root / path).read_text()
        except OSError:
            return ""
