"""`Models`: models of a server by name and alias, with their versions. It can replace them while it answers requests.

Every change has the same steps. It compares the new list of specifications with the present one, loads the new versions,
whose canaries must pass, and then replaces one reference. After that, old versions answer their admitted requests and are
closed. A request that picked an old version whose engine has stopped picks a version again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from fletcher.model_zoo.card import Output
from fletcher.runtime.artifact.manifest import Proof
from fletcher.runtime.errors import InputError, StoppingError
from fletcher.runtime.inputs import Requested

from ..engine.answering import AnsweringEngine
from ..engine.backend import Backend
from ..engine.embed_request import EmbedRequest
from ..engine.rows_request import RowsRequest
from ..errors import ConflictError, UnknownModelError
from ..observe.metrics import Metrics
from .changes import loading
from .loads import LOAD_SECONDS, Loads
from .named import NamedModel, group, table_of
from .remote.locations import Locations
from .shadows import Shadows
from .spaces import check_versions, in_space, require_space
from .spec import ModelSpec, check_specs
from .version import Loader, MakeEngine, ModelVersion
from .version_metrics import add_version_metrics

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["ANSWERED_BY", "VECTORS", "Models"]

logger = logging.getLogger("fletcher.serve.models.registry")

#: Outputs of the models that can answer a request, by the requested output. An embedder also gives the states of its tokens.
#: A request of several outputs goes to a model that has the first one besides vectors.
ANSWERED_BY: Mapping[Requested, tuple[Output, ...]] = MappingProxyType(
    {
        "vectors": ("vectors",),
        "scores": ("scores",),
        "sparse": ("sparse",),
        "token_vectors": ("vectors", "token_vectors"),
        ("sparse",): ("sparse",),
        ("token_vectors",): ("token_vectors",),
        ("vectors", "sparse"): ("sparse",),
        ("vectors", "token_vectors"): ("token_vectors",),
        ("sparse", "token_vectors"): ("sparse",),
        ("vectors", "sparse", "token_vectors"): ("sparse",),
    }
)
VECTORS = ANSWERED_BY["vectors"]

#: Origins of canaries, the one that proves least first.
WEAKEST_FIRST: tuple[Proof, ...] = ("self-made", "published", "verified")

#: Seconds between two checks for idle models.
IDLE_LOOK_SECONDS = 0.25


class Models:
    """Models of a server. Lookups read an immutable table without a lock. Only one change runs at a time.

    Attributes:
        metrics: receives the counts of all engines.
    """

    def __init__(
        self,
        load: Loader,
        make_engine: Callable[[Backend, Metrics], AnsweringEngine],
        *,
        metrics: Metrics | None = None,
        drain_seconds: float = 30.0,
        fingerprint: Callable[[ModelSpec], str] | None = None,
        refuse_long: bool = False,
        default: str | None = None,
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        """Start without models.

        Args:
            load: opens the backend of a specification, and checks its canary.
            make_engine: makes the engine of a backend, with the metrics that receive its counts.
            metrics: receives the counts of all engines. Default: new metrics.
            drain_seconds: longest time in which a removed version may answer its admitted requests.
            fingerprint: returns a digest of the folder of a specification, to detect a changed folder.
                Default: only specifications are compared.
            refuse_long: whether a text that truncation would cut is an error in every request.
            default: name of the model that answers requests with an unknown name. Default: they are refused.
            load_seconds: seconds that a load, or a model that wakes, may take.
        """
        self.metrics = Metrics() if metrics is None else metrics
        self._load = load
        self._make_engine: MakeEngine = lambda encoder: make_engine(encoder, self.metrics.of_one())
        self._drain_seconds = drain_seconds
        self._fingerprint = fingerprint or (lambda spec: "")
        self._refuse_long = refuse_long
        self._default = default
        #: Finds the folders of models that have a URL; with None every path is a folder.
        self.locations: Locations | None = None
        self._change = threading.Lock()
        self._loads = Loads(load_seconds)
        self._named: tuple[NamedModel, ...] = ()
        self._table: Mapping[str, NamedModel | ModelVersion] = {}
        self._fingerprints: dict[tuple[str, str], str] = {}
        self._stopping = self._leaving = False
        #: True if the records of requests keep their texts, for the audit log.
        self.keeps_texts = False
        #: Called after a change of the versions and before the old ones stop; it may wait for those who still use them.
        self.on_change: Callable[[], None] = lambda: None
        self._shadows = Shadows(self.metrics)
        self._requests = self.metrics.labeled(
            "fletcher_model_requests", "Requests submitted to a model's engine", ["model", "version"]
        )
        self._swaps = self.metrics.labeled("fletcher_model_changes", "Models loaded and unloaded", ["kind"])
        add_version_metrics(self.metrics, lambda: [version for model in self._named for version in model.versions])
        self.metrics.gauge("fletcher_loads_hung", "Loads that did not end in time", lambda: float(self._loads.hung))
        self._idle = threading.Thread(target=self._watch_idle, name="fletcher-idle", daemon=True)
        self._follower = threading.Thread(target=self._follow_aliases, name="fletcher-aliases", daemon=True)
        self._stopped = threading.Event()

    # Lookup ------------------------------------------------------------------------------------------------------------

    @property
    def named(self) -> tuple[NamedModel, ...]:
        """Return the models in the order of their specifications."""
        return self._named

    @property
    def stopping(self) -> bool:
        """Return True if the server is stopping."""
        return self._stopping

    @property
    def open_requests(self) -> int:
        """Return the number of requests that were admitted and are not answered yet."""
        engines = [version.engine for model in self._named for version in model.versions]
        return sum(engine.open_requests for engine in engines if engine is not None)

    def find(self, name: str) -> NamedModel | ModelVersion:
        """Return a model by name or alias, or one version of it by `name@version`.

        Raises:
            UnknownModelError: no model has this name.
        """
        entry = self._table.get(name)
        if entry is None:
            names = ", ".join(repr(model.name) for model in self._named)
            raise UnknownModelError(f"the model {name!r} is not served here; this server has {names}")
        return entry

    def has(self, name: str) -> bool:
        """Return True if a model or a version has this name."""
        return name in self._table

    def pick(
        self, name: str | None = None, outputs: Sequence[Output] = VECTORS, request: EmbedRequest | None = None
    ) -> ModelVersion:
        """Return the version that answers the next request.

        Args:
            name: name of the model in the request. Default: the first model that has one of the outputs.
            outputs: outputs of the models that can answer.
            request: the request; if it accepts only certain spaces, a version that gives them is preferred.

        Raises:
            UnknownModelError: no model has this name, or no model has one of the outputs.
            InputError: the model has another output.
        """
        entry: NamedModel | ModelVersion = (
            self._first(outputs) if name is None else self._table.get(name) or self._stand_in(name, outputs)
        )
        if isinstance(entry, NamedModel):
            entry = entry.answering[0] if len(entry.answering) == 1 else _choose(entry, request)
        served = entry.description
        if served.output not in outputs and served.further.isdisjoint(outputs):
            raise InputError(f"{served.name} returns {_words([served.output])}, but this route needs {_words(outputs)}")
        return entry

    def _stand_in(self, name: str, outputs: Sequence[Output]) -> NamedModel | ModelVersion:
        """Return the default model for an unknown name; if it has another output, the first model with one of the outputs.

        Raises:
            UnknownModelError: there is no default model, or the name is that of a version of a served model.
        """
        model, version, _ = name.partition("@")
        if self._default is None or (version and model in self._table):
            return self.find(name)
        entry = self.find(self._default)
        served = entry.answering[0].description if isinstance(entry, NamedModel) else entry.description
        gives = served.output in outputs or not served.further.isdisjoint(outputs)
        return entry if gives else self._first(outputs)

    def _first(self, outputs: Sequence[Output]) -> NamedModel:
        for model in self._named:
            if model.gives(outputs):
                return model
        raise UnknownModelError(f"no model of this server returns {_words(outputs)}")

    def submit(
        self, version: ModelVersion, request: EmbedRequest | RowsRequest, draft: RecordDraft | None = None
    ) -> Future[Any] | None:
        """Submit a request to the engine of a version, and a copy to the shadow of the model.

        Args:
            version: the version that `pick` returned.
            request: the request.
            draft: record that receives its stages, or None.

        Returns:
            A future of the answer; None if the version sleeps or has been replaced. Then wake it, or pick a version again.

        Raises:
            FletcherError: the engine rejects the request.
        """
        engine = version.engine
        if engine is None:
            if self._stopping:  # no load follows, so a caller that picks again would never end
                raise StoppingError("the server is stopping: send the request to another server, or again later")
            return None
        if request.terms.spaces and isinstance(request, EmbedRequest):
            require_space(version, request)
        version.used = time.monotonic()
        if self._refuse_long and isinstance(request, EmbedRequest):
            request = request.refusing_long()
        try:
            future = engine.submit(request, draft)
        except StoppingError:
            if self._stopping or not (version.retired or version.engine is not engine):
                raise
            return None
        rows = isinstance(request, RowsRequest)
        if self.keeps_texts and draft is not None and isinstance(request, EmbedRequest):
            draft.keep(request.inputs)
        if not rows:  # the front that tokenized rows has counted their requests
            self._requests(version.spec.name, version.spec.version).inc()
        model = self._table.get(version.spec.name)
        if isinstance(model, NamedModel) and model.shadow is not None and version is not model.shadow:
            if rows and model.shadow.info.tokenizer != version.info.tokenizer:
                self._shadows.skip(model.shadow, "other tokenizer")
            else:
                self._shadows.follow(model.shadow, future, request)
        return future

    def submit_blocking(
        self, name: str | None, request: EmbedRequest, draft: RecordDraft | None = None
    ) -> tuple[ModelVersion, Future[Any]]:
        """Pick a version and submit a request to it. Wake the version if it sleeps: the thread then waits for the load.

        Args:
            name: as for `pick`.
            request, draft: as for `submit`.

        Returns:
            The version, and a future of its answer.

        Raises:
            FletcherError: as for `pick`, `wake` and `submit`.
        """
        while True:
            version = self.pick(name, ANSWERED_BY[request.output], request)
            if (future := self.submit(version, request, draft)) is not None:
                return version, future
            if not version.retired:
                deadline = request.terms.deadline
                version.wake(None if deadline is None else deadline - time.monotonic())

    @property
    def fallback(self) -> str | None:
        """Return the reasons why models run on another provider than the requested one; None if there are none.

        The text names the models, unless the server has only one.
        """
        engines = [(model.name, version.engine) for model in self._named for version in model.versions]
        reasons = [(name, engine.fallback) for name, engine in engines if engine is not None and engine.fallback]
        if not reasons:
            return None
        return "; ".join(f"{name}: {reason}" if len(self._named) > 1 else str(reason) for name, reason in reasons)

    @property
    def canary(self) -> Proof:
        """Return the weakest origin of the models' canaries: `self-made`, `published` or `verified`."""
        origins = {version.description.canary for model in self._named for version in model.versions}
        return next((origin for origin in WEAKEST_FIRST if origin in origins), "self-made")

    def not_ready(self) -> str:
        """Return the reason why the server is not ready; empty if it is ready. It can take as long as a canary run."""
        if self._leaving:
            return "the server is stopping"
        for model in self._named:
            for version in model.answering:
                if reason := version.not_ready():
                    return reason if len(self._named) == 1 else f"{model.name}: {reason}"
        return ""

    @property
    def settled(self) -> bool:
        """Return True if `not_ready` returns at once, without a canary run."""
        every = (version.readiness for model in self._named for version in model.versions)
        return self._leaving or all(readiness is None or readiness.settled for readiness in every)

    # Changes -----------------------------------------------------------------------------------------------------------

    @property
    def specs(self) -> list[ModelSpec]:
        """Return the specification of each version, in order."""
        return [version.spec for model in self._named for version in model.versions]

    def add_loaded(self, spec: ModelSpec, encoder: Backend) -> None:
        """Serve a backend that the caller has opened and closes.

        Raises:
            InputError: one of its names is taken, or the default model is not served.
        """
        with self._changing():
            version = ModelVersion(spec, lambda spec: encoder, self._make_engine, self._loads, owned=False)
            try:
                self._install([*(v for model in self._named for v in model.versions), version])
            except InputError:
                version.retire(0.0)
                raise
            self.on_change()

    def apply(self, specs: Sequence[ModelSpec]) -> None:
        """Serve exactly these versions. If one of them cannot be loaded, nothing changes.

        Args:
            specs: all versions of all models.

        Raises:
            ConflictError: another change is under way, or two versions conflict.
            DeadlineError: the loads did not end in time.
            FletcherError: a version cannot be loaded, its canary does not pass, or two specifications conflict.
        """
        with self._located(specs) as found:
            self.edit(lambda present: found)

    def load(self, spec: ModelSpec, fields: Collection[str]) -> None:
        """Load a version that an operator described, or replace the version with the same name and label.

        Args:
            spec: specification of the version.
            fields: as for `loading`.

        Raises:
            FletcherError: as for `apply`.
        """
        with self._located([spec]) as (found,):
            # Named on the thread of the load, because that reads the folder.
            self.edit(lambda specs: loading(found.named(), fields)(specs), reload=found.path)

    @contextmanager
    def _located(self, specs: Sequence[ModelSpec]) -> Iterator[list[ModelSpec]]:
        """Yield specifications whose paths are folders on this machine. Artifacts are downloaded here, without a deadline.

        Raises:
            FletcherError: the artifact of a URL cannot be had.
        """
        if self.locations is None:
            yield list(specs)
            return
        with self.locations.resolved(specs) as found:
            try:
                yield found
            finally:
                self.locations.keep(self.specs)

    def edit(
        self,
        change: Callable[[list[ModelSpec]], Sequence[ModelSpec]],
        *,
        reload: str | None = None,
    ) -> None:
        """Apply a change to the present specifications. Another change at the same time is refused.

        Args:
            change: function from the present specifications to the new ones; it may read their folders.
            reload: folder whose version is loaded again even if its specification does not change.

        Raises:
            FletcherError: as for `apply`.
        """
        with self._changing():
            before = {version.spec.key: version for model in self._named for version in model.versions}
            what = "the change of the models" if before else "the models"
            plan = partial(self._plan, change, before, reload)
            self._take(before, self._loads.run(plan, lambda late: _close(late.fresh), what))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Exclude other changes.

        Raises:
            StoppingError: the server is stopping.
            ConflictError: another change is under way.
        """
        if self._stopping:
            raise StoppingError("the server is stopping and does not load models")
        if not self._change.acquire(blocking=False):
            raise ConflictError("another change of the models is under way: repeat this one when it has ended")
        try:
            yield
        finally:
            self._change.release()

    def _plan(
        self,
        change: Callable[[list[ModelSpec]], Sequence[ModelSpec]],
        before: Mapping[tuple[str, str], ModelVersion],
        reload: str | None,
    ) -> _Plan:
        """Load what a change needs; nothing of it is served yet. All files are read here, on the thread of the load."""
        specs = [spec.named() for spec in change([version.spec for version in before.values()])]
        check_specs(specs)
        prints = {spec.key: self._fingerprint(spec) for spec in specs}
        after: list[ModelVersion] = []
        fresh: list[ModelVersion] = []
        moved: list[tuple[ModelVersion, ModelSpec]] = []
        try:
            for spec in specs:
                old = before.get(spec.key)
                old_print = self._fingerprints.get(spec.key, prints[spec.key])
                same = old is not None and old.spec.settings == spec.settings and old_print == prints[spec.key]
                if old is not None and same and spec.path != reload and old.spec.aliases == spec.aliases:
                    moved.append((old, spec))
                    after.append(old)
                else:
                    fresh.append(ModelVersion(spec, self._load, self._make_engine, self._loads))
                    after.append(fresh[-1])
            check_versions(zip(after, specs, strict=True))
            self._check_default(table_of(group(after)))  # raises an error for names that are taken, too
        except BaseException:
            _close(fresh)
            raise
        return _Plan(after, fresh, moved, prints)

    def _take(self, before: Mapping[tuple[str, str], ModelVersion], plan: _Plan) -> None:
        """Serve what a plan has loaded, and close what it leaves out."""
        if self._stopping:
            _close(plan.fresh)
            raise StoppingError("the server is stopping and does not load models")
        for version, spec in plan.moved:
            version.spec = spec
        self._fingerprints = plan.prints
        removed = [version for version in before.values() if version not in plan.after]
        self._install(plan.after)
        self.on_change()
        self._swaps("loaded").inc(len(plan.fresh))
        self._swaps("unloaded").inc(len(removed))
        for version in removed:
            drained = version.retire(self._drain_seconds)
            fields = {"model": version.spec.name, "version": version.spec.version, "all_answered": drained}
            logger.info("model unloaded", extra={"fields": fields})

    def _check_default(self, table: Mapping[str, NamedModel | ModelVersion]) -> None:
        """Check that the default model is served.

        Raises:
            InputError: it is not served.
        """
        if self._default is not None and self._default not in table:
            raise InputError(
                f"--default-model is {self._default!r}, but this server has {', '.join(map(repr, table))}: name one of them"
            )

    def _install(self, versions: Sequence[ModelVersion]) -> None:
        models = group(versions)
        table = table_of(models)
        self._check_default(table)
        self._named, self._table = models, table
        idle = any(version.spec.idle_seconds is not None for version in versions)
        if idle and not self._idle.is_alive():
            self._idle.start()
        follows = self.locations is not None and self.locations.follow_seconds > 0
        if follows and not self._follower.is_alive() and any(version.spec.source for version in versions):
            self._follower.start()

    # Sleep and stop ----------------------------------------------------------------------------------------------------

    def _watch_idle(self) -> None:
        while not self._stopped.wait(IDLE_LOOK_SECONDS):
            for version in [version for model in self._named for version in model.versions]:
                limit, engine = version.spec.idle_seconds, version.engine
                if limit is None or engine is None or engine.open_requests:
                    continue
                if time.monotonic() - version.used > limit:
                    version.sleep(self._drain_seconds)

    def _follow_aliases(self) -> None:
        if self.locations is not None:
            self.locations.follow(lambda: self.specs, self.edit, self._stopped)

    def announce_stop(self) -> None:
        """Report that the server is not ready from now on, so that load balancers leave it. Requests are still answered."""
        self._leaving = True

    def stop_admitting(self) -> None:
        """Reject all new requests. Admitted requests are still answered."""
        self._leaving = self._stopping = True
        self._stopped.set()
        for model in self._named:
            for version in model.versions:
                if (engine := version.engine) is not None:
                    engine.stop_admitting()

    def stop(self, drain_seconds: float) -> bool:
        """Answer the admitted requests and close all models.

        Args:
            drain_seconds: longest time to answer the admitted requests.

        Returns:
            True if every admitted request was answered in time.
        """
        self.stop_admitting()
        self._shadows.stop()
        deadline = time.monotonic() + drain_seconds
        drained = True
        for model in self._named:
            for version in model.versions:
                drained &= version.retire(max(deadline - time.monotonic(), 0.0))
        if self._idle.is_alive():
            self._idle.join()
        if self.locations is not None:
            self.locations.keep(())
        return drained

    def describe(self) -> list[dict[str, Any]]:
        """Return all versions in the form of the admin API: the fields of the specification and the runtime state."""
        rows = []
        for model in self._named:
            for version in model.versions:
                spec = msgspec.to_builtins(version.spec)
                engine = version.engine
                rows.append(
                    spec
                    | {
                        "name": model.name,
                        "version": version.spec.version,
                        "output": version.description.output,
                        "digest": version.description.digest,
                        "space": version.description.space,
                        "awake": engine is not None,
                        "open_requests": 0 if engine is None else engine.open_requests,
                    }
                )
        return rows


@dataclass(frozen=True, slots=True)
class _Plan:
    """Versions that a change has loaded.

    Attributes:
        after: all versions after the change.
        fresh: the new ones.
        moved: old ones whose settings change, with their new specifications.
        prints: digests of the folders.
    """

    after: list[ModelVersion]
    fresh: list[ModelVersion]
    moved: list[tuple[ModelVersion, ModelSpec]]
    prints: dict[tuple[str, str], str]


def _close(versions: Sequence[ModelVersion]) -> None:
    """Close versions that never answered."""
    for version in versions:
        version.retire(0.0)


def _choose(model: NamedModel, request: EmbedRequest | None) -> ModelVersion:
    """Return a version that answers, if possible one whose vectors the request accepts."""
    version = model.choose()
    if request is None or not request.terms.spaces or in_space(version, request):
        return version
    return next((other for other in model.answering if in_space(other, request)), version)


def _words(outputs: Sequence[Output]) -> str:
    return " or ".join(output.replace("_", " ") for output in outputs)
