"""`Models`: the models of a server by name and alias, with versions side by side, exchanged while requests go on.

Every change is one operation: a new list of specifications is compared with the old one; new versions are loaded first, and
their canaries pass; then one reference changes; then old versions are drained and closed. A request that picked an old
version and finds its engine stopped picks again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from fletcher.model_zoo.card import Output
from fletcher.runtime.errors import InputError, StoppingError

from ..engine.backend import Backend
from ..engine.embed_request import EmbedRequest
from ..engine.engine import Engine
from ..errors import UnknownModelError
from ..observe.metrics import Metrics
from .named import Serving, group, table_of
from .shadows import Shadows
from .spec import ModelSpec, check_specs
from .version import Loader, MakeEngine, Version

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["ANSWERED_BY", "VECTORS", "Models"]

logger = logging.getLogger("fletcher.serve.models.registry")

#: Outputs of models that can answer a request, by its output: an embedder gives the states of its tokens, too.
ANSWERED_BY: Mapping[Output, tuple[Output, ...]] = MappingProxyType(
    {
        "vectors": ("vectors",),
        "scores": ("scores",),
        "sparse": ("sparse",),
        "token_vectors": ("vectors", "token_vectors"),
    }
)
VECTORS = ANSWERED_BY["vectors"]

#: Seconds between two looks at which models are idle.
IDLE_LOOK_SECONDS = 0.25


class Models:
    """What a server serves. Lookups are lock-free on an immutable table; one change runs at a time.

    Attributes:
        metrics: what all engines count in.
    """

    def __init__(
        self,
        load: Loader,
        make_engine: Callable[[Backend, Metrics], Engine],
        *,
        metrics: Metrics | None = None,
        drain_seconds: float = 30.0,
        fingerprint: Callable[[ModelSpec], str] | None = None,
    ) -> None:
        """
        Args:
            load: opens a specification's encoder, its canary checked.
            make_engine: gives an encoder its engine, counting in the metrics given.
            metrics: where to count.
            drain_seconds: how long a version that goes may take to answer what it admitted.
            fingerprint: of what lies at a specification's path, so that a folder that was exchanged is seen; None looks
                at the specification alone.
        """
        self.metrics = Metrics() if metrics is None else metrics
        self._load = load
        self._make_engine: MakeEngine = lambda encoder: make_engine(encoder, self.metrics.of_one())
        self._drain_seconds = drain_seconds
        self._fingerprint = fingerprint or (lambda spec: "")
        self._change = threading.Lock()
        self._serving: tuple[Serving, ...] = ()
        self._table: Mapping[str, Serving | Version] = {}
        self._fingerprints: dict[tuple[str, str], str] = {}
        self._stopping = False
        self._shadows = Shadows(self.metrics)
        self._requests = self.metrics.labeled(
            "fletcher_model_requests", "Requests handed to a model's engine", ["model", "version"]
        )
        self._swaps = self.metrics.labeled("fletcher_model_changes", "Models loaded and unloaded", ["kind"])
        self.metrics.gauge("fletcher_models_awake", "Models that are in memory", self._count_awake)
        self._idle = threading.Thread(target=self._watch_idle, name="fletcher-idle", daemon=True)
        self._stopped = threading.Event()

    # Looking up --------------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> tuple[Serving, ...]:
        """The models, in the order in which they were named."""
        return self._serving

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self._stopping

    @property
    def open_requests(self) -> int:
        """Requests admitted and not yet answered."""
        engines = [version.engine for serving in self._serving for version in serving.versions]
        return sum(engine.open_requests for engine in engines if engine is not None)

    def find(self, name: str) -> Serving | Version:
        """Return a model by name or alias, or one version of it by `name@version`.

        Raises:
            UnknownModelError: no model has this name.
        """
        entry = self._table.get(name)
        if entry is None:
            names = ", ".join(repr(serving.name) for serving in self._serving)
            raise UnknownModelError(f"the model {name!r} is not served here; this server has {names}")
        return entry

    def pick(self, name: str | None = None, outputs: Sequence[Output] = VECTORS) -> Version:
        """Return the version that answers a request now.

        Args:
            name: the name that the client wrote; None is the first model that gives such an output.
            outputs: outputs of models that can answer.

        Raises:
            UnknownModelError: no model has this name, or none gives such an output.
            InputError: the model gives something else.
        """
        entry: Serving | Version = self._first(outputs) if name is None else self._table.get(name) or self.find(name)
        if isinstance(entry, Serving):
            entry = entry.answering[0] if len(entry.answering) == 1 else entry.choose()
        served = entry.served
        if served.output not in outputs:
            raise InputError(f"{served.name} gives {_words([served.output])}, and this route {_words(outputs)}")
        return entry

    def _first(self, outputs: Sequence[Output]) -> Serving:
        for serving in self._serving:
            if serving.output in outputs:
                return serving
        raise UnknownModelError(f"no model of this server gives {_words(outputs)}")

    def submit(self, version: Version, request: EmbedRequest, draft: RecordDraft | None = None) -> Future[Any] | None:
        """Hand a request to a version's engine, and a copy of it to the model's shadow.

        Args:
            version: the version that `pick` returned.
            request: the request.
            draft: record that receives its stages, or None.

        Returns:
            The answer's future; None if the version sleeps or has been replaced: wake it, or pick again.

        Raises:
            FletcherError: the engine rejects the request.
        """
        engine = version.engine
        if engine is None:
            if self._stopping:  # nothing wakes or replaces it any more: a caller that picks again would do so forever
                raise StoppingError("the server is stopping: send the request to another one, or again later")
            return None
        version.used = time.monotonic()
        try:
            future = engine.submit(request, draft)
        except StoppingError:
            if self._stopping or not (version.retired or version.engine is not engine):
                raise
            return None
        self._requests(version.spec.name, version.spec.version).inc()
        serving = self._table.get(version.spec.name)
        if isinstance(serving, Serving) and serving.shadow is not None and version is not serving.shadow:
            self._shadows.follow(serving.shadow, future, request)
        return future

    def submit_blocking(
        self, name: str | None, request: EmbedRequest, draft: RecordDraft | None = None
    ) -> tuple[Version, Future[Any]]:
        """`pick`, `wake` and `submit` for a thread that may wait for a load.

        Raises:
            FletcherError: as those.
        """
        while True:
            version = self.pick(name, ANSWERED_BY[request.output])
            if (future := self.submit(version, request, draft)) is not None:
                return version, future
            if not version.retired:
                version.wake()

    @property
    def fallback(self) -> str | None:
        """Which models another provider computes than was wanted, and why; None if there is none. A server's only model is
        not named."""
        engines = [(serving.name, version.engine) for serving in self._serving for version in serving.versions]
        found = [(name, engine.fallback) for name, engine in engines if engine is not None and engine.fallback]
        if not found:
            return None
        return "; ".join(f"{name}: {why}" if len(self._serving) > 1 else str(why) for name, why in found)

    def not_ready(self) -> str:
        """Why the server is not ready; empty if it is. May take as long as a canary run."""
        if self._stopping:
            return "the server is stopping"
        for serving in self._serving:
            for version in serving.answering:
                if reason := version.not_ready():
                    return reason if len(self._serving) == 1 else f"{serving.name}: {reason}"
        return ""

    @property
    def settled(self) -> bool:
        """Whether `not_ready` answers at once."""
        every = (version.readiness for serving in self._serving for version in serving.versions)
        return self._stopping or all(readiness is None or readiness.settled for readiness in every)

    # Changing ----------------------------------------------------------------------------------------------------------

    @property
    def specs(self) -> list[ModelSpec]:
        """What the operator said of each version, in order."""
        return [version.spec for serving in self._serving for version in serving.versions]

    def add_loaded(self, spec: ModelSpec, encoder: Backend) -> None:
        """Serves an encoder that is open already and stays its caller's to close.

        Raises:
            InputError: one of its names is taken.
        """
        with self._change:
            version = Version(spec, lambda spec: encoder, self._make_engine, owned=False)
            self._install([*(v for serving in self._serving for v in serving.versions), version])

    def apply(self, specs: Sequence[ModelSpec], *, reload: frozenset[tuple[str, str]] = frozenset()) -> None:
        """Makes the server serve exactly these. What fails to load leaves everything as it was.

        Args:
            specs: every version of every model.
            reload: name and version of those to load again even if nothing of them changed.

        Raises:
            FletcherError: one cannot be loaded, its canary does not pass, or the list contradicts itself.
        """
        with self._change:
            self._apply([spec.named() for spec in specs], reload)

    def edit(
        self,
        change: Callable[[list[ModelSpec]], Sequence[ModelSpec]],
        *,
        reload: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        """`apply` of what `change` makes of the present specifications, with no other change in between."""
        with self._change:
            self._apply([spec.named() for spec in change(self.specs)], reload)

    def _apply(self, specs: Sequence[ModelSpec], reload: frozenset[tuple[str, str]]) -> None:
        if self._stopping:
            raise StoppingError("the server is stopping: it loads nothing more")
        check_specs(specs)
        before = {version.spec.key: version for serving in self._serving for version in serving.versions}
        prints = {spec.key: self._fingerprint(spec) for spec in specs}
        after: list[Version] = []
        fresh: list[Version] = []
        moved: list[tuple[Version, ModelSpec]] = []
        try:
            for spec in specs:
                old = before.get(spec.key)
                known = self._fingerprints.get(spec.key, prints[spec.key])
                same = old is not None and old.spec.settings == spec.settings and known == prints[spec.key]
                if old is not None and same and spec.key not in reload and old.spec.aliases == spec.aliases:
                    moved.append((old, spec))
                    after.append(old)
                else:
                    fresh.append(Version(spec, self._load, self._make_engine))
                    after.append(fresh[-1])
            table = table_of(group(after))  # refuses names that are taken, before anything changes
        except BaseException:
            for version in fresh:
                version.retire(0.0)
            raise
        del table
        for version, spec in moved:
            version.spec = spec
        self._fingerprints = prints
        gone = [version for version in before.values() if version not in after]
        self._install(after)
        self._swaps("loaded").inc(len(fresh))
        self._swaps("unloaded").inc(len(gone))
        for version in gone:
            drained = version.retire(self._drain_seconds)
            fields = {"model": version.spec.name, "version": version.spec.version, "all_answered": drained}
            logger.info("model unloaded", extra={"fields": fields})

    def _install(self, versions: Sequence[Version]) -> None:
        serving = group(versions)
        table = table_of(serving)
        self._serving, self._table = serving, table
        idle = any(version.spec.idle_seconds is not None for version in versions)
        if idle and not self._idle.is_alive():
            self._idle.start()

    # Resting and stopping ----------------------------------------------------------------------------------------------

    def _count_awake(self) -> float:
        return sum(version.engine is not None for serving in self._serving for version in serving.versions)

    def _watch_idle(self) -> None:
        while not self._stopped.wait(IDLE_LOOK_SECONDS):
            for version in [version for serving in self._serving for version in serving.versions]:
                limit, engine = version.spec.idle_seconds, version.engine
                if limit is None or engine is None or engine.open_requests:
                    continue
                if time.monotonic() - version.used > limit:
                    version.sleep(self._drain_seconds)

    def stop_admitting(self) -> None:
        """Refuses everything from now on; what was admitted is still answered."""
        self._stopping = True
        self._stopped.set()
        for serving in self._serving:
            for version in serving.versions:
                if (engine := version.engine) is not None:
                    engine.stop_admitting()

    def stop(self, drain_seconds: float) -> bool:
        """Answers what was admitted and closes every model; returns whether everything was answered in time."""
        self.stop_admitting()
        self._shadows.stop()
        deadline = time.monotonic() + drain_seconds
        drained = True
        for serving in self._serving:
            for version in serving.versions:
                drained &= version.retire(max(deadline - time.monotonic(), 0.0))
        if self._idle.is_alive():
            self._idle.join()
        return drained

    def describe(self) -> list[dict[str, Any]]:
        """Every version, as the admin API shows it."""
        rows = []
        for serving in self._serving:
            for version in serving.versions:
                spec = msgspec.to_builtins(version.spec)
                engine = version.engine
                rows.append(
                    spec
                    | {
                        "name": serving.name,
                        "version": version.spec.version,
                        "output": version.served.output,
                        "digest": version.served.digest,
                        "awake": engine is not None,
                        "open_requests": 0 if engine is None else engine.open_requests,
                    }
                )
        return rows


def _words(outputs: Sequence[Output]) -> str:
    return " or ".join(output.replace("_", " ") for output in outputs)
