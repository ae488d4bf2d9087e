"""`ModelVersion`: one loaded version of a model with its engine. It can sleep and wake."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial

import msgspec

from fletcher.runtime.errors import DeadlineError, FletcherError, StoppingError
from fletcher.runtime.machine.machine import container_limit
from fletcher.runtime.memory.budget import request_bytes
from fletcher.runtime.providers.opening import FALLBACK

from ..engine.answering import AnsweringEngine
from ..engine.backend import Backend, close_backend
from .description import ModelDescription
from .heap import give_memory_back
from .loads import Loads, on_thread
from .readiness import Readiness
from .spec import ModelSpec

__all__ = ["Loader", "MakeEngine", "ModelVersion"]

logger = logging.getLogger("fletcher.serve.models.registry")

#: Function that opens the backend of a specification, and checks its canary.
Loader = Callable[[ModelSpec], Backend]
#: Function that makes the engine of a backend.
MakeEngine = Callable[[Backend], AnsweringEngine]


class ModelVersion:
    """A version of a model: the loaded model and its engine. While it sleeps it holds neither; the next request wakes it.

    Attributes:
        spec: configuration of the version.
        info: description of the loaded model.
        description: description for clients.
        spaces: identifiers of the vectors that its requests get.
        engine: engine that answers requests; None while the version sleeps.
        readiness: readiness of the model; None while the version sleeps, because its canary is checked when it wakes.
        used: `time.monotonic()` of the latest request.
        retired: True after the version was removed; a caller that still holds it picks a version again.
    """

    def __init__(
        self, spec: ModelSpec, load: Loader, make_engine: MakeEngine, loads: Loads, *, owned: bool = True
    ) -> None:
        """Load the version, on this thread.

        Args:
            spec: configuration of the version.
            load: opens its backend.
            make_engine: makes its engine.
            loads: runs the loads that wake it.
            owned: True if the version closes its backend.

        Raises:
            FletcherError: the model cannot be loaded, or its canary does not pass.
        """
        self.spec = spec
        self.retired = False
        self.used = time.monotonic()
        self._load = load
        self._make_engine = make_engine
        self._owned = owned
        self._loads = loads
        self._waking: Future[AnsweringEngine] | None = None
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._encoder: Backend | None = load(spec)
        self.info = self._encoder.info
        self.description = ModelDescription.of(self.info, spec.name, spec.aliases, spec.version)
        self.spaces = self.info.spaces
        self.engine: AnsweringEngine | None = self._begin(self._encoder)
        self.readiness: Readiness | None = Readiness(self.engine)

    def _begin(self, encoder: Backend) -> AnsweringEngine:
        engine = self._make_engine(encoder)
        limit = self.spec.memory_limit_bytes or container_limit()
        if limit is not None:
            engine.bound_memory(request_bytes(limit))
        # A batch that fails on the provider runs again on the CPU, if the options allow this.
        if self.spec.allow_fallback and encoder.info.provider_name != FALLBACK:
            engine.set_spare(partial(self._load, msgspec.structs.replace(self.spec, provider=FALLBACK)))
        return engine

    def wake(self, seconds: float | None = None) -> AnsweringEngine:
        """Return the engine. Load the model again first if the version sleeps.

        Args:
            seconds: longest time that the caller waits for the load, which goes on afterwards. Default: no limit.

        Raises:
            DeadlineError: the load did not end in time.
            FletcherError: as for the constructor.
        """
        waking = self.wake_soon()
        wait([waking], seconds)
        if not waking.done():
            raise DeadlineError("the request's deadline passed before its model was loaded")
        return waking.result()

    def wake_soon(self) -> Future[AnsweringEngine]:
        """Return a future of the engine. One load on a thread of its own serves all callers, so they hold no thread."""
        with self._lock:
            self.used = time.monotonic()
            if self._waking is None:
                if self.engine is not None:
                    ready: Future[AnsweringEngine] = Future()
                    ready.set_result(self.engine)
                    return ready
                self._waking = on_thread(self._load_again, f"fletcher-wake-{self.spec.name}")
            return self._waking

    def _load_again(self) -> AnsweringEngine:
        try:
            started = time.perf_counter()
            what = f"the model {self.spec.name!r}"
            encoder = self._loads.run(self._load_after_close, close_backend, what)
            with self._lock:
                if self.retired:
                    close_backend(encoder)
                    raise StoppingError(f"the model {self.spec.name!r} was unloaded: send the request again")
                self._encoder = encoder
                engine = self.engine = self._begin(encoder)
                self.readiness = Readiness(engine)
                self.used = time.monotonic()
            self._log("model woke", seconds=round(time.perf_counter() - started, 3))
            return engine
        finally:
            with self._lock:
                self._waking = None

    def _load_after_close(self) -> Backend:
        """Load the model when the memory of its former session is free."""
        with self._closing:
            pass
        return self._load(self.spec)

    def sleep(self, drain_seconds: float) -> None:
        """Answer the admitted requests and release the memory of the model.

        Args:
            drain_seconds: longest time to answer the admitted requests.
        """
        self._close(drain_seconds)
        self._log("model sleeps")

    def retire(self, drain_seconds: float) -> bool:
        """Close the version permanently.

        Args:
            drain_seconds: longest time to answer the admitted requests.

        Returns:
            True if every admitted request was answered.
        """
        self.retired = True
        return self._close(drain_seconds)

    def _close(self, drain_seconds: float) -> bool:
        # `_lock` is not held while requests and batches end, because the event loop takes it to wake the model.
        with self._closing:
            with self._lock:
                engine, encoder = self.engine, self._encoder
                self.engine = self._encoder = self.readiness = None
            if engine is None or encoder is None:
                return True
            drained = engine.stop(drain_seconds)
            engine.metrics.leave()
            # `close` waits for batches, so an encoder whose batches hang is not closed.
            if self._owned and drained:
                close_backend(encoder)
            del engine, encoder
            give_memory_back()
            return drained

    def _log(self, message: str, **fields: object) -> None:
        name = {"model": self.spec.name, "version": self.spec.version}
        logger.info(message, extra={"fields": name | fields})

    def not_ready(self) -> str:
        """Return the reason why the version is not ready; empty if it is ready or sleeps. A canary run may be necessary."""
        readiness = self.readiness
        try:
            return "" if readiness is None else readiness.reason()
        except FletcherError as error:
            return f"the canary could not be computed ({type(error).__name__})"
