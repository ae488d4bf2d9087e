"""`ServerOptions`: options of a server, without those of its models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from fletcher.runtime.errors import InputError, OptionError
from fletcher.runtime.options.sizes import parse_size
from fletcher.runtime.options.struct import Options

from .access.limits.ledger import StoreRule
from .access.limits.quota import Quota, read_quota
from .access.proxies import TrustedProxies
from .audit.rule import FullRule
from .request_headers import OnTruncate
from .tls.files import ClientCertificates, TlsFiles

__all__ = ["FLIGHT", "OFF", "ON", "ServerOptions"]

#: Address that turns HTTP or Flight off.
OFF: Final = "off"

#: Value of `admin` for the address of HTTP.
ON: Final = "on"

#: Value of `fronts` that depends on the machine.
AUTO: Final = "auto"

#: Largest number of fronts.
MAX_FRONTS: Final = 256

#: Cores that `auto` leaves to the process with the models, and the most fronts that it takes.
ENGINE_CORES: Final = 4
MOST_AUTO_FRONTS: Final = 12

#: Default address of Flight.
FLIGHT: Final = "127.0.0.1:8815"

PROXY_PANEL: Final = "Behind a proxy"
ACCESS_PANEL: Final = "Access and limits"
TLS_PANEL: Final = "TLS"
QUEUE_PANEL: Final = "Queue"
WATCH_PANEL: Final = "Logs and traces"
LONGBOW_PANEL: Final = "Longbow"


_MODE: Final = re.compile(r"[0-7]{3}")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_ORIGIN: Final = re.compile(
    r"\*|[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._-]+(?::\d{1,5})?|[a-z]+://\[[0-9A-Fa-f:.]+\](?::\d{1,5})?"
)


class ServerOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Addresses, limits, keys, logs, traces and the Longbow connection of a server.

    Raises:
        OptionError: a value has a wrong type, is out of its bounds, or is not a size.
    """

    PANEL: ClassVar[str | None] = None

    http: Annotated[
        str,
        Meta(
            description="Address of HTTP, HOST:PORT or unix:PATH for a Unix socket. Port 0 takes a free port; off turns HTTP "
            "off.",
            extra={"metavar": "ADDRESS"},
        ),
    ] = "127.0.0.1:8080"
    socket_mode: Annotated[
        str,
        Meta(
            description="Permissions of the Unix socket in octal. 600 lets only the server's user connect, 660 also its "
            "group.",
            extra={"metavar": "MODE", "panel": PROXY_PANEL},
        ),
    ] = "600"
    root_path: Annotated[
        str,
        Meta(
            description="Prefix of the path under which clients reach the server through a proxy, such as /fletcher. Paths "
            "with and without it are answered.",
            extra={"metavar": "PATH", "panel": PROXY_PANEL},
        ),
    ] = ""
    trusted_proxy: Annotated[
        tuple[str, ...],
        Meta(
            description="Network of a proxy whose X-Forwarded-For or Forwarded header names the client, such as 10.0.0.0/8, "
            "or unix for the Unix socket. Can be given several times. Default: no header is believed.",
            extra={"metavar": "CIDR", "panel": PROXY_PANEL},
        ),
    ] = ()
    cors_allow_origin: Annotated[
        tuple[str, ...],
        Meta(
            description="Origin of a website whose pages may call the server, such as https://example.org, or * for all. "
            "The admin API never allows them. Can be given several times. Default: none.",
            extra={"metavar": "ORIGIN", "panel": ACCESS_PANEL},
        ),
    ] = ()
    flight: Annotated[
        str | None,
        Meta(
            description="Address of Arrow Flight. Port 0 takes a free port; off turns Flight off. Default: 127.0.0.1:8815, "
            "or off if pyarrow is not installed.",
            extra={"metavar": "HOST:PORT"},
        ),
    ] = None
    fronts: Annotated[
        int | str,
        Meta(
            description="Number of processes that answer requests in front of the process with the models; 0 does everything "
            "in one process. auto is 0 without an NVIDIA GPU, and else the number of cores less 4, from 1 to 12.",
            extra={"metavar": "N"},
        ),
    ] = "auto"
    playground: Annotated[
        bool,
        Meta(
            description="Page /playground, on which people compare texts, search files and look at models. Default: the "
            "server has it."
        ),
    ] = True
    name: Annotated[
        str | None,
        Meta(description="Name of the model in requests and answers, if there is only one. Default: the card's name."),
    ] = None
    default_model: Annotated[
        str | None,
        Meta(
            description="Name of the model that answers requests for models that this server does not have, for clients "
            "whose model cannot be set. A route that needs another output takes the first model that has it. "
            "Default: such requests are refused.",
            extra={"metavar": "NAME"},
        ),
    ] = None
    follow_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds between two looks at the aliases of models (URLs that end with .json); a model is exchanged "
            "when its alias changes. 0 looks at them after SIGHUP only.",
        ),
    ] = 30.0
    drain_seconds: Annotated[
        float, Meta(ge=0, description="Seconds that open requests may take after the signal to stop.")
    ] = 30.0
    lame_duck_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds after the signal to stop in which requests are still answered and /ready answers 503, so "
            "that load balancers leave the server before it refuses requests.",
        ),
    ] = 0.0
    keys: Annotated[
        str | None,
        Meta(
            description="File of API keys, written by `fletcher-serve keys add`. Default: no key is needed.",
            extra={"metavar": "FILE", "panel": ACCESS_PANEL},
        ),
    ] = None
    jwt: Annotated[
        str | None,
        Meta(
            description="TOML file with the issuer of signed tokens (JWT, OIDC) that are accepted beside API keys: issuer, "
            "audience, jwks and the rights of scopes. Default: none are accepted.",
            extra={"metavar": "FILE", "panel": ACCESS_PANEL},
        ),
    ] = None
    tls_cert: Annotated[
        str | None,
        Meta(
            description="Certificate with its chain (PEM) of HTTP, Flight and an own address of the admin API. The server "
            "exchanges it when the file changes. Default: no TLS.",
            extra={"metavar": "FILE", "panel": TLS_PANEL},
        ),
    ] = None
    tls_key: Annotated[
        str | None,
        Meta(
            description="Private key (PEM, without a password) of --tls-cert.",
            extra={"metavar": "FILE", "panel": TLS_PANEL},
        ),
    ] = None
    tls_client_ca: Annotated[
        str | None,
        Meta(
            description="CAs (PEM) whose certificates clients have. The name in a client's certificate is its identity: with "
            "--keys, the file names the clients that may call; without, each is a user. Default: no client has one.",
            extra={"metavar": "FILE", "panel": TLS_PANEL},
        ),
    ] = None
    tls_client_crl: Annotated[
        str | None,
        Meta(
            description="Revocation lists (PEM) of the CAs that issue certificates of clients: a revoked certificate opens "
            "no connection. Default: revocation is not checked.",
            extra={"metavar": "FILE", "panel": TLS_PANEL},
        ),
    ] = None
    tls_clients: Annotated[
        ClientCertificates,
        Meta(
            description="Rule for certificates of clients: required of every connection, or optional, for clients with keys "
            "or signed tokens.",
            extra={"metavar": "RULE", "panel": TLS_PANEL},
        ),
    ] = "required"
    allow_anonymous: Annotated[
        bool,
        Meta(
            description="Accept requests from other machines without API keys.",
            extra={"panel": ACCESS_PANEL, "flags": ("--allow-anonymous",)},
        ),
    ] = False
    allow_host: Annotated[
        tuple[str, ...],
        Meta(
            description="Name or address in the header Host to which the server answers, besides localhost, the loopback and "
            "the address of --http. Can be given several times. Default: no other name; with API keys, signed tokens, "
            "certificates of clients or --allow-anonymous, every name.",
            extra={"metavar": "NAME", "panel": ACCESS_PANEL},
        ),
    ] = ()
    admin: Annotated[
        str,
        Meta(
            description="Admin API, which loads and unloads models: off, on for the address of HTTP and for Flight, or "
            "HOST:PORT or unix:PATH for an address of its own.",
            extra={"metavar": "ADDRESS", "panel": ACCESS_PANEL},
        ),
    ] = "off"
    models_root: Annotated[
        str | None,
        Meta(
            description="Folder or URL below which the admin API may load artifacts. Default: it loads nothing.",
            extra={"metavar": "FOLDER|URL", "panel": ACCESS_PANEL},
        ),
    ] = None
    load_seconds: Annotated[
        float,
        Meta(gt=0, description="Seconds that a load of models may take.", extra={"panel": ACCESS_PANEL}),
    ] = 600.0
    limit: Annotated[
        tuple[str, ...],
        Meta(
            description="Limit of each client whose key has none of its own, and of each address without keys: "
            "requests=10/s, tokens=5000/s:20000 (with a burst), bytes=1000000/day or in_flight=8. Can be given several "
            "times. Default: no limit.",
            extra={"metavar": "LIMIT", "panel": ACCESS_PANEL},
        ),
    ] = ()
    limit_store: Annotated[
        str | None,
        Meta(
            description="URL of a Redis or Valkey, redis://HOST:PORT/0, in which several servers count limits together. "
            "Default: each server counts its own.",
            extra={"metavar": "URL", "panel": ACCESS_PANEL, "secret": "@"},
        ),
    ] = None
    limit_store_file: Annotated[
        str | None,
        Meta(
            description="File whose first line is the URL of --limit-store, if the URL has a password.",
            extra={"metavar": "FILE", "panel": ACCESS_PANEL},
        ),
    ] = None
    limit_store_down: Annotated[
        StoreRule,
        Meta(
            description="Rule while the store of limits does not answer: alone counts limits in this server alone, refuse "
            "answers clients with limits with 503.",
            extra={"metavar": "RULE", "panel": ACCESS_PANEL},
        ),
    ] = "alone"
    salt_caches: Annotated[
        bool,
        Meta(
            description="Share no cached vector and no computation among clients, so that none can find out what another "
            "sent.",
            extra={"panel": ACCESS_PANEL, "flags": ("--salt-caches",)},
        ),
    ] = False
    require_verified: Annotated[
        bool,
        Meta(
            description="Refuse artifacts whose canary is self-made: neither compared with sentence-transformers nor "
            "published by the model's authors.",
            extra={"panel": ACCESS_PANEL, "flags": ("--require-verified",)},
        ),
    ] = False
    trusted_signer: Annotated[
        str | None,
        Meta(
            description="Signer of every artifact that the server loads, also through the admin API, instead of the models' "
            "`require_signature`, in the same form. Default: each model's own.",
            extra={"metavar": "IDENTITY", "panel": ACCESS_PANEL},
        ),
    ] = None
    max_body: Annotated[
        int | str,
        Meta(description="Size of the largest HTTP body.", extra={"metavar": "SIZE", "panel": ACCESS_PANEL}),
    ] = "32MiB"
    max_items: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Largest number of texts in a request. Default: the limit of each API.",
            extra={"panel": ACCESS_PANEL},
        ),
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Largest number of tokens in a request. Default: no limit.", extra={"panel": ACCESS_PANEL}),
    ] = None
    max_connections: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Largest number of HTTP connections of a process. Default: the limit of open files less 128, but at "
            "least half of it.",
            extra={"panel": ACCESS_PANEL},
        ),
    ] = None
    max_connections_per_address: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Largest number of HTTP connections of one address. Set it to --max-connections behind a proxy. "
            "Default: half of --max-connections.",
            extra={"panel": ACCESS_PANEL},
        ),
    ] = None
    on_truncate: Annotated[
        OnTruncate,
        Meta(
            description="Policy for texts that are longer than the model takes: allow cuts them, report also says so in the "
            "header x-truncated and in the log, refuse makes them an error in every request.",
            extra={"panel": ACCESS_PANEL},
        ),
    ] = "report"
    compress_above: Annotated[
        int | str,
        Meta(
            description="Size from which answers are compressed for clients that accept zstd or gzip; off never compresses.",
            extra={"metavar": "SIZE", "panel": PROXY_PANEL},
        ),
    ] = "64KiB"
    body_seconds: Annotated[
        float, Meta(gt=0, description="Seconds in which a body must arrive.", extra={"hidden": True})
    ] = 30.0
    queue_seconds: Annotated[
        float,
        Meta(
            ge=0.01,
            description="Longest expected wait in the queue, in seconds. A request that would wait longer is rejected with "
            "429 and the time after which to retry. A stream waits.",
            extra={"panel": QUEUE_PANEL},
        ),
    ] = 30.0
    queue_tokens: Annotated[
        int,
        Meta(
            ge=1,
            description="Largest number of tokens that wait for a model. One client fills at most three quarters of it.",
            extra={"panel": QUEUE_PANEL},
        ),
    ] = 1 << 20
    otlp: Annotated[
        str | None,
        Meta(
            description="URL of an OpenTelemetry collector that receives traces, for example http://127.0.0.1:4318. The "
            "OTEL_… environment variables set the other options. Default: no traces.",
            extra={"metavar": "URL", "panel": WATCH_PANEL},
        ),
    ] = None
    audit: Annotated[
        str | None,
        Meta(
            description="File of the audit log: a line for every request, change and refusal, in a chain of hashes "
            "(`fletcher-serve audit verify`). Default: no audit log.",
            extra={"metavar": "FILE", "panel": WATCH_PANEL},
        ),
    ] = None
    audit_size: Annotated[
        int | str,
        Meta(
            description="Size from which the audit log is moved to FILE.NUMBER and a new file is begun.",
            extra={"metavar": "SIZE", "panel": WATCH_PANEL},
        ),
    ] = "256MiB"
    audit_full: Annotated[
        FullRule,
        Meta(
            description="Rule while the audit log cannot be written, for example because the disk is full: drop answers "
            "requests and drops lines beyond some ten thousand, stop answers requests with 503.",
            extra={"metavar": "RULE", "panel": WATCH_PANEL},
        ),
    ] = "drop"
    audit_texts: Annotated[
        bool,
        Meta(
            description="Write the texts of requests into the audit log, of each request up to 32,768 characters. Default: "
            "the log has no text.",
            extra={"panel": WATCH_PANEL, "flags": ("--audit-texts",)},
        ),
    ] = False
    log_level: Annotated[
        str,
        Meta(
            description="Least severe log lines that are written: debug (every request), info (rejected requests, changes "
            "of models), warning or error.",
            extra={"panel": WATCH_PANEL},
        ),
    ] = "info"
    longbow: Annotated[
        str | None,
        Meta(
            description="URL of Longbow, grpc://HOST:PORT, for POST /v1/ingest and Flight's DoPut. Default: no Longbow.",
            extra={"metavar": "URL", "panel": LONGBOW_PANEL},
        ),
    ] = None
    longbow_token: Annotated[
        str | None,
        Meta(
            description="Token for a proxy in front of Longbow that requires one, from the environment or a TOML file. "
            "Default: no token.",
            extra={"panel": LONGBOW_PANEL, "secret": ""},
        ),
    ] = None
    longbow_token_file: Annotated[
        str | None,
        Meta(
            description="File whose first line is the token for a proxy in front of Longbow. Default: no token.",
            extra={"metavar": "FILE", "panel": LONGBOW_PANEL},
        ),
    ] = None
    longbow_ca: Annotated[
        str | None,
        Meta(
            description="File of trusted certificates (PEM) for Longbow. Default: the system's certificates.",
            extra={"metavar": "FILE", "panel": LONGBOW_PANEL},
        ),
    ] = None

    longbow_timeout: Annotated[
        float, Meta(ge=0.1, description="Seconds that a call to Longbow may take.", extra={"hidden": True})
    ] = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (("max_body", self.max_body), ("compress_above", self.compress_above), ("audit_size", self.audit_size))
        for name, value in sizes:
            if name == "compress_above" and value == OFF:
                continue
            try:
                parse_size(value)
            except InputError as error:
                raise OptionError(name, f"{name}: {error}") from None
        self._check_edge()
        self._check_tls()
        if self.audit_texts and self.audit is None:
            raise OptionError("audit_texts", "audit_texts needs a log: give audit, too")
        try:
            read_quota(self.limit)
        except InputError as error:
            raise OptionError("limit", str(error)) from None
        if self.fronts != AUTO and not _is_count(str(self.fronts)):
            raise OptionError(
                "fronts", f"fronts is {self.fronts!r}: use {AUTO} or a whole number from 0 to {MAX_FRONTS}"
            )

    @property
    def compress_bytes(self) -> int | None:
        """The size in bytes from which answers are compressed; None if they are not."""
        return None if self.compress_above == OFF else parse_size(self.compress_above)

    @property
    def identifies(self) -> bool:
        """True if callers must say who they are, by a key, a signed token or a certificate."""
        return self.keys is not None or self.jwt is not None or self.tls_client_ca is not None

    @property
    def tls_files(self) -> TlsFiles | None:
        """Files of the certificate; None without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        authorities = None if self.tls_client_ca is None else Path(self.tls_client_ca)
        revoked = None if self.tls_client_crl is None else Path(self.tls_client_crl)
        return TlsFiles(Path(self.tls_cert), Path(self.tls_key), authorities, self.tls_clients, revoked)

    def _check_tls(self) -> None:
        """Check that the options about certificates are complete.

        Raises:
            OptionError: one is missing.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_cert" if self.tls_cert is None else "tls_key"
            raise OptionError(missing, f"{missing} is missing: TLS needs a certificate and its key")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise OptionError("tls_client_ca", "tls_client_ca needs TLS: give tls_cert and tls_key, too")
        if self.tls_client_crl is not None and self.tls_client_ca is None:
            raise OptionError("tls_client_crl", "tls_client_crl needs the CAs of clients: give tls_client_ca, too")

    def _check_edge(self) -> None:
        """Check the options about proxies and websites.

        Raises:
            OptionError: one is invalid.
        """
        if not _MODE.fullmatch(self.socket_mode):
            raise OptionError(
                "socket_mode", f"socket_mode is {self.socket_mode!r}: use three octal digits, such as 660"
            )
        if self.root_path and not _PREFIX.fullmatch(self.root_path):
            raise OptionError(
                "root_path",
                f"root_path is {self.root_path!r}: it begins with a slash and ends without one, as /fletcher",
            )
        for origin in self.cors_allow_origin:
            if not _ORIGIN.fullmatch(origin):
                raise OptionError(
                    "cors_allow_origin",
                    f"cors_allow_origin is {origin!r}: use *, or scheme and host without a path, as https://example.org",
                )
        try:
            TrustedProxies(self.trusted_proxy)
        except InputError as error:
            raise OptionError("trusted_proxy", f"trusted_proxy: {error}") from None

    @property
    def max_body_bytes(self) -> int:
        """The size of the largest HTTP body in bytes."""
        return parse_size(self.max_body)

    @property
    def audit_bytes(self) -> int:
        """The size in bytes from which a new file of the audit log is begun."""
        return parse_size(self.audit_size)

    @property
    def quota(self) -> Quota:
        """The limits of each client that has none of its own."""
        return read_quota(self.limit)

    @property
    def front_count(self) -> int:
        """Number of front processes; 0 for a server of one process."""
        if self.fronts != AUTO:
            return int(self.fronts)
        from fletcher.runtime.machine.gpus import this_gpus
        from fletcher.runtime.machine.machine import this_machine

        if not this_gpus().gpus:
            return 0
        return min(max(len(this_machine().processors) - ENGINE_CORES, 1), MOST_AUTO_FRONTS)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(MAX_FRONTS)) and int(text) <= MAX_FRONTS
