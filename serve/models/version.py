"""One version of a model in a server: its engine while it is awake, and the way there and back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

import msgspec

from fletcher.runtime.errors import FletcherError
from fletcher.runtime.memory.budget import request_bytes
from fletcher.runtime.providers.opening import FALLBACK

from ..engine.backend import Backend
from ..engine.engine import Engine
from .description import ServedModel
from .heap import give_memory_back
from .readiness import Readiness
from .spec import ModelSpec

__all__ = ["Loader", "MakeEngine", "Version"]

logger = logging.getLogger("fletcher.serve.models.registry")

#: Opens what a specification names, its canary checked.
Loader = Callable[[ModelSpec], Backend]
MakeEngine = Callable[[Backend], Engine]


class Version:
    """A loaded model and its engine. Asleep, it holds neither, and the next request wakes it.

    Attributes:
        spec: what the operator said of it.
        served: what clients see of it.
        used: `time.monotonic()` of the latest request.
        retired: whether another one took its place: whoever still has it in hand asks the registry again.
    """

    def __init__(self, spec: ModelSpec, load: Loader, make_engine: MakeEngine, *, owned: bool = True) -> None:
        """Loads it.

        Args:
            spec: which one.
            load: opens it.
            make_engine: gives it its engine.
            owned: whether to close the encoder with it.

        Raises:
            FletcherError: it cannot be loaded, or its canary does not pass.
        """
        self.spec = spec
        self.retired = False
        self.used = time.monotonic()
        self._load = load
        self._make_engine = make_engine
        self._owned = owned
        self._lock = threading.Lock()
        self._encoder: Backend | None = load(spec)
        self.served = ServedModel.of(self._encoder, spec.name, spec.aliases, spec.version)
        self._engine: Engine | None = self._begin(self._encoder)
        self._readiness: Readiness | None = Readiness(self._engine)

    def _begin(self, encoder: Backend) -> Engine:
        engine = self._make_engine(encoder)
        if (limit := self.spec.memory_limit_bytes) is not None:
            engine.bound_memory(request_bytes(limit))
        # What the provider fails at runs once more on the processor, where that was allowed.
        if self.spec.allow_fallback and encoder.provider_name != FALLBACK:
            engine.device.spare = partial(self._load, msgspec.structs.replace(self.spec, provider=FALLBACK))
        return engine

    @property
    def engine(self) -> Engine | None:
        """What answers, or None while it sleeps."""
        return self._engine

    @property
    def readiness(self) -> Readiness | None:
        """What `/ready` asks, or None while it sleeps: the canary is checked when it wakes."""
        return self._readiness

    def wake(self) -> Engine:
        """Loads it again if it sleeps, which takes as long as a load.

        Raises:
            FletcherError: as the constructor.
        """
        with self._lock:
            if self._engine is None:
                started = time.perf_counter()
                self._encoder = self._load(self.spec)
                self._engine = self._begin(self._encoder)
                self._readiness = Readiness(self._engine)
                self._log("model woke", seconds=round(time.perf_counter() - started, 3))
            self.used = time.monotonic()
            engine: Engine = self._engine
            return engine

    def sleep(self, drain_seconds: float) -> None:
        """Answers what was admitted and gives the memory back."""
        with self._lock:
            self._close(drain_seconds)
        self._log("model sleeps")

    def retire(self, drain_seconds: float) -> bool:
        """Ends it for good; returns whether everything admitted was answered."""
        self.retired = True
        with self._lock:
            return self._close(drain_seconds)

    def _close(self, drain_seconds: float) -> bool:
        engine, encoder = self._engine, self._encoder
        self._engine = self._encoder = self._readiness = None
        if engine is None or encoder is None:
            return True
        drained = engine.stop(drain_seconds)
        engine.metrics.leave()
        close = getattr(encoder, "close", None)
        # An encoder whose batches hang is left alone: closing it waits for them.
        if self._owned and drained and close is not None:
            close()
        del engine, encoder, close
        give_memory_back()
        return drained

    def _log(self, message: str, **fields: object) -> None:
        name = {"model": self.spec.name, "version": self.spec.version}
        logger.info(message, extra={"fields": name | fields})

    def not_ready(self) -> str:
        """Why it is not ready; empty if it is, or sleeps. May take as long as a canary run."""
        readiness = self._readiness
        try:
            return "" if readiness is None else readiness.reason()
        except FletcherError as error:
            return f"the canary could not be computed ({type(error).__name__})"
