"""`Surroundings`: the parts of a server besides its models: keys, certificates, limits, Longbow, traces.

Every process of a server opens its own.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from fletcher import __version__
from fletcher.runtime import Artifact, Encoder, LoadOptions
from fletcher.runtime.artifact.manifest import Proof
from fletcher.runtime.errors import InputError, MissingPackageError
from fletcher.runtime.options.secrets import read_secret
from fletcher.runtime.remote.url import is_url, parse_url

from .access.addresses import HostPort, UnixPath, bind, parse
from .access.gate import Gate
from .access.keys import Keys
from .access.limits.ledger import TableLedger
from .access.site import SiteGuard
from .access.tokens.tokens import Tokens
from .audit.channel import RemoteLog
from .audit.lifetime import begin_log, end_log
from .audit.log_file import LogFile
from .audit.trail import MOST_WAITING, MOST_WAITING_WITH_TEXTS, Trail
from .byte_budget import ByteBudget
from .connection_limits import ConnectionLimits
from .engine.backend import Backend
from .engine.engine import Engine
from .flight.bounds import FlightBounds
from .http.app import HttpApp
from .http.call import AsgiApp, Limits
from .http.edge.edge import Edge
from .http.edge.forwarded import as_loopback
from .http.playground.options import Pages
from .models.changes import AdminRules
from .models.registry import Models
from .models.remote.locations import Locations
from .models.spec import ModelSpec
from .models.version import Loader
from .observe.metrics import Metrics
from .observe.record import Consumer
from .server_options import FLIGHT, OFF, ServerOptions
from .tls.certificates import Certificates

if TYPE_CHECKING:
    from .access.limits.redis_ledger import RedisLedger
    from .flight.server import FlightServer
    from .http.server import HttpServer
    from .longbow.door import LongbowDoor
    from .observe.tracing import Tracing

__all__ = [
    "Surroundings",
    "fingerprint",
    "flight_server_class",
    "load_encoder",
    "make_loader",
    "open_audit_log",
    "open_certificates",
    "require_proof",
]


Flight = TypeVar("Flight", bound="FlightServer")


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
        certificates: the certificate of the server, or None without TLS.
        trail: way to the audit log, or None without one.
        audit_log: the audit log, if this process writes it.
        store: counts limits for several servers, or None.
        longbow: destination of ingested texts, or None.
        tracing: destination of spans, or None.
    """

    options: ServerOptions
    limits: Limits
    edge: Edge
    gate: Gate
    certificates: Certificates | None
    trail: Trail | None
    audit_log: LogFile | None
    store: RedisLedger | None
    longbow: LongbowDoor | None
    tracing: Tracing | None

    @classmethod
    def open(
        cls,
        options: ServerOptions,
        tracing: Tracing | None = None,
        table: TableLedger | None = None,
        audit_socket: str | None = None,
    ) -> Surroundings:
        """Open what the options name.

        Args:
            options: options of the server.
            tracing: destination of spans, instead of `options.otlp`.
            table: use of limits that the processes of the server share. Default: a table of this process.
            audit_socket: Unix socket of the process that writes the audit log. Default: this process writes it.

        Raises:
            InputError: a file of keys, of the certificate or of signed tokens cannot be used, or the keys of the tokens'
                issuer cannot be read.
            MissingPackageError: an option needs a package that is not installed.
        """
        certificates = open_certificates(options)
        keys = None if options.keys is None else Keys(Path(options.keys))
        # A front that is started again must not depend on the server of the issuer's keys: the supervisor has asked it.
        tokens = None if options.jwt is None else Tokens(Path(options.jwt), needed=table is None)
        longbow = None if options.longbow is None else _open_longbow(options)
        if tracing is None and options.otlp is not None:
            tracing = _open_tracing(options.otlp, options)
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
        address = read_secret(options.limit_store, options.limit_store_file, "--limit-store-file")
        store = None if address is None else _open_store(address, options, table)
        audit_log = open_audit_log(options) if audit_socket is None else None
        trail = None
        if options.audit is not None:
            write = RemoteLog(audit_socket or "").write if audit_log is None else audit_log.append
            most = MOST_WAITING_WITH_TEXTS if options.audit_texts else MOST_WAITING
            trail = Trail(write, options.audit_full, most)
        gate = Gate(
            keys,
            options.quota,
            table if store is None else store,
            site_guard(options),
            salts=options.salt_caches,
            tokens=tokens,
            certificates=options.tls_client_ca is not None,
            check=None if trail is None else trail.check,
        )
        if certificates is not None:
            certificates.start()
        return cls(options, limits, edge, gate, certificates, trail, audit_log, store, longbow, tracing)

    @property
    def admin(self) -> AdminRules:
        """Rules of the admin API of the server's ordinary addresses."""
        given = self.options.models_root
        root = None if given is None else parse_url(given) if is_url(given) else Path(given)
        note = None if self.trail is None else self.trail.note_change
        return AdminRules("on" if self.options.admin == "on" else "off", root, note)

    def consumers(self, more: Sequence[Consumer]) -> Sequence[Consumer]:
        """Return the consumers of records: the audit log, if there is one, and others."""
        return more if self.trail is None else [self.trail.record, *more]

    def make_admin_app(self, models: Models, consumers: Sequence[Consumer] = ()) -> AsgiApp:
        """Return the application of an address that has the admin API alone.

        Args:
            models: models that it changes.
            consumers: as for `make_app`.
        """
        rules = replace(self.admin, door="only")
        consumers = self.consumers(consumers)
        own = self.gate  # without its limits
        gate = Gate(own.keys, site=own.site, tokens=own.tokens, certificates=own.certificates, check=own.check)
        app = HttpApp(models, gate=gate, limits=self.limits, tracing=self.tracing, consumers=consumers, admin=rules)
        return as_loopback(app) if self.options.admin.startswith("unix:") else app

    def start_admin(
        self, models: Models, at: HostPort | UnixPath | None, consumers: Sequence[Consumer] = ()
    ) -> HttpServer | None:
        """Start the admin API at an address of its own.

        Args:
            models: models that it changes.
            at: the address; None if it has none.
            consumers: as for `make_app`.

        Raises:
            InputError: the address is in use.
        """
        if at is None:
            return None
        from .http.server import HttpServer  # it needs uvicorn, which other servers that embed these parts may not have

        listener = bind(at, "--admin")
        try:
            app = self.make_admin_app(models, consumers)
            server = HttpServer(app, listener, drain_seconds=self.options.drain_seconds, certificates=self.certificates)
            server.start()
        except BaseException:
            listener.close()
            raise
        return server

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
        models.keeps_texts = self.options.audit_texts
        self.watch(models.metrics)
        if (certificates := self.certificates) is not None:
            if (trail := self.trail) is not None:
                certificates.on_exchange = lambda serial: trail.note_change(
                    {"change": "certificate", "subject": serial, "result": "done"}
                )
            doors = [door for door, at in (("http", self.options.http), ("flight", self.options.flight)) if at != OFF]
            models.metrics.described(
                "fletcher_certificate_expiry_seconds",
                "End of the server's certificate, in seconds since 1970",
                ("door",),
                lambda: [((door,), certificates.served.expires) for door in doors],
            )
            models.metrics.counted(
                "fletcher_certificate_refused",
                "Changed files of the certificate that were refused",
                lambda: certificates.refused,
            )
            if self.options.tls_client_crl is not None:
                models.metrics.gauge(
                    "fletcher_revocation_list_expiry_seconds",
                    "End of the revocation list that ends first, in seconds since 1970",
                    lambda: certificates.served.revocations_expire or math.inf,
                )
        return models

    def watch(self, metrics: Metrics) -> None:
        """Add the failures of the store of limits, of the issuer's keys and of the audit log to a process's metrics."""
        if (trail := self.trail) is not None:
            metrics.counted("fletcher_audit_dropped", "Lines that the audit log lacks", lambda: trail.dropped)
            metrics.counted(
                "fletcher_audit_refused",
                "Requests that were refused because the audit log could not be written",
                lambda: trail.refused,
            )
            metrics.gauge(
                "fletcher_audit_failing", "1 while the audit log cannot be written", lambda: float(trail.failing)
            )
        if (tokens := self.gate.tokens) is not None:
            metrics.counted(
                "fletcher_jwks_failures",
                "Reads of the keys of the signed tokens' issuer that failed",
                lambda: tokens.source.failures,
            )
            metrics.gauge(
                "fletcher_jwks_read_timestamp_seconds",
                "Time of the last successful read of the keys of the signed tokens' issuer, in seconds since 1970",
                lambda: tokens.source.read_at,
            )
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
            consumers=self.consumers(consumers),
            pages=Pages(self.options.root_path, self.options.playground),
            admin=self.admin,
        )

    def make_flight(
        self,
        kind: type[Flight],
        models: Models,
        address: HostPort | str,
        consumers: Sequence[Consumer] = (),
    ) -> Flight:
        """Return a Flight server of models, which listens.

        Args:
            kind: class of the server.
            models: models that answer.
            address: address to listen on, or the path of a Unix socket.
            consumers: as for `make_app`.
        """
        return kind(
            models,
            self.gate,
            address,
            self.longbow,
            self.tracing,
            self.consumers(consumers),
            self.admin,
            self.flight_bounds(),
        )

    def connection_limits(self) -> ConnectionLimits:
        """Return the limits of the HTTP connections of this process."""
        return ConnectionLimits(self.options.max_connections, self.options.max_connections_per_address)

    def flight_bounds(self) -> FlightBounds:
        """Return the limits of what Flight calls hold, within the byte budget that HTTP shares."""
        return FlightBounds(self.limits.budget, self.limits.body_bytes)

    def reload_files(self) -> None:
        """Read the keys, the certificate and the keys of signed tokens again, and begin a new audit log if the present one
        was moved. Each that cannot be used stays as it is.

        Raises:
            InputError: some cannot be used.
        """
        reloads = [one.reload for one in (self.gate.keys, self.certificates, self.gate.tokens) if one is not None]
        if self.audit_log is not None:
            reloads.append(self.audit_log.reopen)
        reasons = []
        for reload in reloads:
            try:
                reload()
            except InputError as error:
                reasons.append(str(error))
        if self.trail is not None:
            result = {"result": "failed", "reason": "; ".join(reasons)} if reasons else {"result": "done"}
            self.trail.note_change({"change": "read files", **result})
        if reasons:
            raise InputError("; ".join(reasons))

    def close(self) -> None:
        """Close the connections to Longbow and to the collector of traces, and write the last uses of keys."""
        if self.certificates is not None:
            self.certificates.close()
        self.gate.close()
        if self.longbow is not None:
            self.longbow.close()
        if self.tracing is not None:
            self.tracing.close()
        if self.trail is not None:
            self.trail.close()
        if self.audit_log is not None:
            end_log(self.audit_log)


def open_audit_log(options: ServerOptions) -> LogFile | None:
    """Return the audit log that the options name, with a line about the start; None if they name none.

    Raises:
        InputError: the file cannot be used.
    """
    return None if options.audit is None else begin_log(Path(options.audit), options.audit_bytes, __version__)


def open_certificates(options: ServerOptions) -> Certificates | None:
    """Return the certificate that the options name; None without TLS.

    Raises:
        InputError: a file cannot be used.
        MissingPackageError: a package is not installed.
    """
    files = options.tls_files
    return None if files is None else Certificates(files)


def site_guard(options: ServerOptions) -> SiteGuard | None:
    """Return the check which names the server answers to, and whose pages may send requests; None without either.

    A browser sends keys and signed tokens only if the page has them, but it sends a certificate of its user by itself.
    """
    hosts = list(options.allow_host)
    if options.identifies and not hosts:
        return None if options.tls_client_ca is None else SiteGuard(None, options.cors_allow_origin)
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
    token = read_secret(options.longbow_token, options.longbow_token_file, "--longbow-token-file")
    return LongbowDoor(Target(options.longbow or "", token, ca_file, options.longbow_timeout))


def _open_store(address: str, options: ServerOptions, table: TableLedger) -> RedisLedger:
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
    return RedisLedger(address, table, options.limit_store_down)


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


def _open_tracing(url: str, options: ServerOptions) -> Tracing:
    from .observe.tracing import Tracing

    # The host of the option may stand for every address of the machine.
    port = (options.flight or FLIGHT if options.http == OFF else options.http).rpartition(":")[2]
    return Tracing.to(url, f"{socket.gethostname()}:{port}")
