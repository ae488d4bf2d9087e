"""`Surroundings`: the parts of a server besides its models: keys, limits, Longbow, traces.

Every process of a server opens its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fletcher.runtime import Artifact, Encoder, LoadOptions
from fletcher.runtime.artifact.manifest import Proof
from fletcher.runtime.errors import InputError, MissingPackageError
from fletcher.runtime.remote.url import is_url, parse_url

from .access.addresses import parse
from .access.gate import Gate
from .access.keys import Keys
from .access.limits.ledger import TableLedger
from .access.site import SiteGuard
from .byte_budget import ByteBudget
from .connection_limits import ConnectionLimits
from .engine.backend import Backend
from .engine.engine import Engine
from .flight.bounds import FlightBounds
from .http.app import HttpApp
from .http.call import AsgiApp, Limits
from .http.edge.edge import Edge
from .http.edge.forwarded import as_loopback
from .models.changes import AdminRules
from .models.registry import Models
from .models.remote.locations import Locations
from .models.spec import ModelSpec
from .models.version import Loader
from .observe.metrics import Metrics
from .observe.record import Consumer
from .server_options import OFF, ServerOptions

if TYPE_CHECKING:
    from .access.limits.redis_ledger import RedisLedger
    from .flight.server import FlightServer
    from .longbow.door import LongbowDoor
    from .observe.tracing import Tracing

__all__ = ["Surroundings", "fingerprint", "flight_server_class", "load_encoder", "make_loader", "require_proof"]


def load_encoder(spec: ModelSpec) -> Backend:
    """Load a model, and check its files and its canary."""
    return Encoder.load(spec.path, LoadOptions.of(spec))


def make_loader(options: ServerOptions, load: Loader = load_encoder) -> Loader:
    """Return the function that loads the models of a server with these options.

    Args:
        options: options of the server; `require_verified` and `trusted_signer` refuse models.
        load: opens a model.
    """
    if options.trusted_signer is not None:
        load = partial(_load_signed, load, options.trusted_signer)
    return partial(_load_verified, load) if options.require_verified else load


def _load_signed(load: Loader, signer: str, spec: ModelSpec) -> Backend:
    """Load a model whose artifact the server's signer has signed.

    Raises:
        As `load`.
    """
    return load(msgspec.structs.replace(spec, require_signature=signer))


def _load_verified(load: Loader, spec: ModelSpec) -> Backend:
    """Load a model whose vectors were compared with a reference.

    Raises:
        InputError: its canary is self-made.
        As `load`.
    """
    if spec.path:
        require_proof(Artifact.open(Path(spec.path)).manifest.status, spec.path)
    return load(spec)


def require_proof(canary: Proof, name: str) -> None:
    """Refuse a self-made canary.

    Args:
        canary: origin of the canary.
        name: folder of the artifact, or the model's name, for the message.

    Raises:
        InputError: the canary is self-made.
    """
    if canary == "self-made":
        raise InputError(
            f"--require-verified refuses {name}: its canary is self-made, so its vectors were compared with no reference. "
            f"Run `fletcher-convert model verify {name}` (extra verify)"
        )


def fingerprint(spec: ModelSpec) -> str:
    """Return the digest of everything in the artifact that decides the vectors; empty for a model without a folder."""
    return Artifact.open(Path(spec.path)).digest if spec.path else ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Parts of a server that its options describe.

    Attributes:
        options: the options.
        limits: limits of a request.
        edge: wrappers of the HTTP application of the process that has the connections.
        gate: decides who may call; it has the keys.
        store: counts limits for several servers, or None.
        longbow: destination of ingested texts, or None.
        tracing: destination of spans, or None.
    """

    options: ServerOptions
    limits: Limits
    edge: Edge
    gate: Gate
    store: RedisLedger | None
    longbow: LongbowDoor | None
    tracing: Tracing | None

    @classmethod
    def open(
        cls, options: ServerOptions, tracing: Tracing | None = None, table: TableLedger | None = None
    ) -> Surroundings:
        """Open what the options name.

        Args:
            options: options of the server.
            tracing: destination of spans, instead of `options.otlp`.
            table: use of limits that the processes of the server share. Default: a table of this process.

        Raises:
            InputError: the keys' file cannot be used.
            MissingPackageError: Longbow or traces need a package that is not installed.
        """
        keys = None if options.keys is None else Keys(Path(options.keys))
        longbow = None if options.longbow is None else _open_longbow(options)
        if tracing is None and options.otlp is not None:
            tracing = _open_tracing(options.otlp)
        limits = Limits(
            options.max_body_bytes,
            options.body_seconds,
            options.max_items,
            options.max_tokens,
            options.compress_bytes,
            options.on_truncate,
            ByteBudget(shares=max(options.front_count, 1)),
        )
        edge = Edge(options.root_path, options.cors_allow_origin, options.trusted_proxy)
        table = TableLedger() if table is None else table
        store = None if options.limit_store is None else _open_store(options, table)
        site = None if keys is not None else site_guard(options)
        gate = Gate(keys, options.quota, table if store is None else store, site, salts=options.salt_caches)
        return cls(options, limits, edge, gate, store, longbow, tracing)

    @property
    def admin(self) -> AdminRules:
        """Rules of the admin API of the server's ordinary addresses."""
        given = self.options.models_root
        root = None if given is None else parse_url(given) if is_url(given) else Path(given)
        return AdminRules("on" if self.options.admin == "on" else "off", root)

    def make_admin_app(self, models: Models, consumers: Sequence[Consumer] = ()) -> AsgiApp:
        """Return the application of an address that has the admin API alone.

        Args:
            models: models that it changes.
            consumers: as for `make_app`.
        """
        rules = AdminRules("only", self.admin.root)
        gate = Gate(self.gate.keys, site=self.gate.site)  # administration has no limits
        app = HttpApp(models, gate=gate, limits=self.limits, tracing=self.tracing, consumers=consumers, admin=rules)
        return as_loopback(app) if self.options.admin.startswith("unix:") else app

    def make_models(self, load: Loader = load_encoder) -> Models:
        """Return the registry of a server's models, without models.

        Args:
            load: opens a model.
        """
        models = Models(
            make_loader(self.options, load),
            self.make_engine,
            drain_seconds=self.options.drain_seconds,
            fingerprint=fingerprint,
            refuse_long=self.options.on_truncate == "refuse",
            default=self.options.default_model,
            load_seconds=self.options.load_seconds,
        )
        models.locations = Locations(self.options.follow_seconds)
        self.watch_store(models.metrics)
        return models

    def watch_store(self, metrics: Metrics) -> None:
        """Add the failures of the store of limits to the metrics of this process, if there is a store."""
        if (store := self.store) is None:
            return
        metrics.counted(
            "fletcher_limit_store_failures", "Calls to the store of limits that failed", lambda: store.failures
        )
        metrics.counted(
            "fletcher_limit_store_missed",
            "Charges that the store of limits has not got, because it did not answer",
            lambda: store.missed,
        )

    def open_models(self, given: Backend | Sequence[ModelSpec], load: Loader = load_encoder) -> Models:
        """Return models that answer.

        Args:
            given: models to load, or one loaded model, which the caller closes.
            load: opens a model.

        Raises:
            InputError: `require_verified` refuses a model.
            FletcherError: a model cannot be loaded.
        """
        models = self.make_models(load)
        try:
            self.fill(models, given)
        except BaseException:
            models.stop(0.0)
            raise
        return models

    def fill(self, models: Models, given: Backend | Sequence[ModelSpec]) -> None:
        """Let models answer.

        Args:
            models: registry of the server.
            given: models to load, or one loaded model, which the caller closes.

        Raises:
            InputError, FletcherError: as for `open_models`.
        """
        if isinstance(given, Sequence):
            models.apply(given)
            return
        if self.options.require_verified:
            require_proof(given.info.canary, given.info.card.name)
        name = self.options.name or given.info.card.name
        models.add_loaded(ModelSpec(path="", name=name, aliases=()), given)

    def make_engine(self, encoder: Backend, metrics: Metrics) -> Engine:
        """Begin the engine of a loaded model."""
        engine = Engine(
            encoder,
            max_queue_tokens=self.options.queue_tokens,
            max_wait_seconds=self.options.queue_seconds,
            max_request_tokens=self.limits.tokens,
            metrics=metrics,
        )
        engine.budget = self.limits.budget
        return engine

    def make_app(self, models: Models, consumers: Sequence[Consumer] = ()) -> HttpApp:
        """Return the HTTP application of models.

        Args:
            models: models that answer.
            consumers: receive the record of every request, besides metrics, log and traces.
        """
        return HttpApp(
            models,
            gate=self.gate,
            limits=self.limits,
            longbow=self.longbow,
            tracing=self.tracing,
            consumers=consumers,
            root_path=self.options.root_path,
            admin=self.admin,
        )

    def connection_limits(self) -> ConnectionLimits:
        """Return the limits of the HTTP connections of this process."""
        return ConnectionLimits(self.options.max_connections, self.options.max_connections_per_address)

    def flight_bounds(self) -> FlightBounds:
        """Return the limits of what Flight calls hold, within the byte budget that HTTP shares."""
        return FlightBounds(self.limits.budget, self.limits.body_bytes)

    def reload_keys(self) -> None:
        """Read the keys' file again, if there is one.

        Raises:
            InputError: the file cannot be used; the keys stay as they are.
        """
        if self.gate.keys is not None:
            self.gate.keys.reload()

    def close(self) -> None:
        """Close the connections to Longbow and to the collector of traces, and write the last uses of keys."""
        self.gate.close()
        if self.longbow is not None:
            self.longbow.close()
        if self.tracing is not None:
            self.tracing.close()


def site_guard(options: ServerOptions) -> SiteGuard:
    """Return the check of a server without keys: which names it answers to, and whose pages may send requests."""
    hosts = list(options.allow_host)
    if options.http.startswith("unix:") or (options.allow_anonymous and not options.allow_host):
        # No browser reaches the socket, and a server that lets anybody in has names of its own.
        return SiteGuard(None, options.cors_allow_origin)
    if options.http != OFF:
        hosts.append(parse(options.http, "--http").host)
    return SiteGuard(hosts, options.cors_allow_origin)


def flight_server_class() -> type[FlightServer]:
    """Return the class of the Flight server.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    with _arrow_packages("--flight"):
        from .flight.server import FlightServer

    return FlightServer


def _open_longbow(options: ServerOptions) -> LongbowDoor:
    with _arrow_packages("--longbow"):
        from .longbow.door import LongbowDoor
        from .longbow.wire.target import Target

    ca_file = None if options.longbow_ca is None else Path(options.longbow_ca)
    return LongbowDoor(Target(options.longbow or "", options.longbow_token, ca_file, options.longbow_timeout))


def _open_store(options: ServerOptions, table: TableLedger) -> RedisLedger:
    """Return the ledger in Redis or Valkey.

    Raises:
        MissingPackageError: the client library is not installed.
        InputError: the URL cannot be used.
    """
    try:
        from .access.limits.redis_ledger import RedisLedger
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise MissingPackageError("redis", "redis", "--limit-store") from error
    return RedisLedger(options.limit_store or "", table, options.limit_store_down)


@contextmanager
def _arrow_packages(purpose: str) -> Iterator[None]:
    """Translate the absence of pyarrow into the error that names the extra.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise MissingPackageError("pyarrow", "flight", purpose) from error


def _open_tracing(url: str) -> Tracing:
    from .observe.tracing import Tracing

    return Tracing.to(url)
