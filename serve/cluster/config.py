"""`Cluster`: the content of `cluster.toml`, which names the instances, their pools and the balancer in front of them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

from ..access.addresses import HostPort, parse

__all__ = ["MODEL_HEADER", "OFF", "Balancer", "Cluster", "Instance", "Pool", "Tls", "read_cluster"]

#: Header with the name of the model, which chooses the pool. The Gateway API's inference extension has the same name.
MODEL_HEADER: Final = "x-gateway-model-name"

#: Address that turns a listener off.
OFF: Final = "off"

#: Name of a pool or an instance: both configurations, and labels of metrics, take it as it is.
NAME: Final = "^[A-Za-z][A-Za-z0-9_-]{0,62}$"

#: Name of a model in the header. It needs no quotes in either configuration. A version (`@2`) is not part of it.
MODEL: Final = "^[A-Za-z0-9._/:+-]{1,200}$"

_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]+")

#: Path of a file in the configurations, without quotes.
_PATH: Final = re.compile(r"[A-Za-z0-9._/@+-]+")

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


def _address(text: str, key: str) -> HostPort:
    try:
        address = parse(text, key)
    except InputError as error:
        raise ValueError(str(error)) from None
    if not address.port or not _HOST.fullmatch(address.host):
        raise ValueError(f"{key} is {text!r}; it must be HOST:PORT, such as 10.0.0.11:8080")
    return address


def _unique(names: Iterator[str] | Sequence[str], problem: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two {problem} {name!r}")
        seen.add(name)


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table of `cluster.toml`. A `ValueError` of its check gets the path of the table from msgspec."""


class Balancer(_Table, frozen=True, kw_only=True):
    """Options of the balancer.

    Attributes:
        http: address for clients over HTTP, HOST:PORT.
        flight: address for clients over Flight, or `off`.
        stats: address of the balancer's own metrics, or `off`. It has no access check: bind it to the loopback.
        default_pool: pool of requests that name no pool's model. Default: the only pool; with several, such requests get 404.
        connect_seconds: longest wait for a connection to an instance.
        header_seconds: longest time in which a request's headers arrive.
        idle_seconds: longest pause in a request or an answer of HTTP.
        flight_idle_seconds: longest pause in a Flight stream.
        check_seconds: time between two looks at `/ready` of an instance.
        falls, rises: failed looks after which an instance gets no requests, and passed ones after which it does again.
        retries: other instances that are tried.
        retry_bytes: longest request that can be sent again after an instance received it.
        max_connections: most connections of clients.
        stop_seconds: longest time that connections may last after the balancer was reloaded or stopped.
        log_requests: True for a line of log for each request.
    """

    http: str = "0.0.0.0:8080"
    flight: str = OFF
    stats: str = OFF
    default_pool: str | None = None
    connect_seconds: Seconds = 2.0
    header_seconds: Seconds = 10.0
    idle_seconds: Seconds = 300.0
    flight_idle_seconds: Seconds = 3600.0
    check_seconds: Seconds = 1.0
    falls: Annotated[int, Meta(ge=1, le=100)] = 2
    rises: Annotated[int, Meta(ge=1, le=100)] = 1
    retries: Annotated[int, Meta(ge=0, le=10)] = 2
    retry_bytes: Annotated[int, Meta(ge=16_384, le=1 << 20)] = 65_536
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    stop_seconds: Seconds = 600.0
    log_requests: bool = False

    def __post_init__(self) -> None:
        for key in ("http", "flight", "stats"):
            if getattr(self, key) != OFF:
                _address(getattr(self, key), key)
        if self.http == OFF and self.flight == OFF:
            raise ValueError("http and flight are both off: give one of them an address")

    @property
    def lame_duck_seconds(self) -> int:
        """Seconds that a stopping instance must answer with `/ready` 503, so that the balancer has left it before."""
        return int(self.check_seconds * (self.falls + 1)) + 1


class Tls(_Table, frozen=True, kw_only=True):
    """Certificates.

    Attributes:
        certificate: PEM file with the certificate for clients, its chain and its key. Default: clients connect without TLS.
        instance_ca: PEM file with the CA of the instances' certificates. Default: connections to instances have no TLS.
        instance_name: name in the instances' certificates. It is needed with `instance_ca`.
    """

    certificate: str | None = None
    instance_ca: str | None = None
    instance_name: str | None = None

    def __post_init__(self) -> None:
        for key in ("certificate", "instance_ca"):
            path = getattr(self, key)
            if path is not None and not _PATH.fullmatch(path):
                raise ValueError(f"{key} is {path!r}: use a path of letters, digits and . _ / @ + -")
        if (self.instance_ca is None) != (self.instance_name is None):
            raise ValueError("instance_ca and instance_name need each other: the CA, and the name in the certificates")
        if self.instance_name is not None and not _HOST.fullmatch(self.instance_name):
            raise ValueError(f"instance_name is {self.instance_name!r}: it must be a name of a host")


class Instance(_Table, frozen=True, kw_only=True):
    """A server of a pool.

    Attributes:
        name: its name.
        http: its address of HTTP, HOST:PORT.
        flight: its address of Flight, HOST:PORT. Default: none.
    """

    name: Annotated[str, Meta(pattern=NAME)]
    http: str
    flight: str | None = None

    def __post_init__(self) -> None:
        http = _address(self.http, "http")
        if self.flight is not None and _address(self.flight, "flight").host != http.host:
            raise ValueError(f"flight is {self.flight}, and http is {self.http}: both must be on one host")


class Pool(_Table, frozen=True, kw_only=True):
    """Instances that serve the same models.

    Attributes:
        name: its name.
        models: names of the header `X-Gateway-Model-Name` that choose it.
        instances: its instances, if their addresses are known.
        dns: name whose addresses are those of the instances, instead of `instances`.
        http_port, flight_port: ports of the instances of `dns`. A `flight_port` of 0 is none.
        most: most addresses of `dns`.
    """

    name: Annotated[str, Meta(pattern=NAME)]
    models: Annotated[tuple[Annotated[str, Meta(pattern=MODEL)], ...], Meta(min_length=1)]
    instances: tuple[Instance, ...] = ()
    dns: str | None = None
    http_port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    flight_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    most: Annotated[int, Meta(ge=1, le=1000)] = 20

    def __post_init__(self) -> None:
        if not self.instances and self.dns is None:
            raise ValueError(f"the pool {self.name!r} has no instance: give it [[pools.instances]], or dns")
        if self.instances and self.dns is not None:
            raise ValueError(f"the pool {self.name!r} has both instances and dns: give it one of them")
        if self.dns is not None and not _HOST.fullmatch(self.dns):
            raise ValueError(f"dns is {self.dns!r}: it must be a name of a host, without a port")
        with_flight = [each.flight is not None for each in self.instances]
        if any(with_flight) and not all(with_flight):
            raise ValueError(f"the pool {self.name!r} has instances with flight and without: give it to all or none")
        _unique((each.name for each in self.instances), f"instances of the pool {self.name!r} have the name")

    @property
    def has_flight(self) -> bool:
        """True if the instances have Flight."""
        return bool(self.flight_port) if self.dns is not None else self.instances[0].flight is not None


class Cluster(_Table, frozen=True, kw_only=True):
    """Content of `cluster.toml`.

    Attributes:
        pools: pools of instances.
        balancer: options of the balancer.
        tls: certificates.
        ray: options of `cluster serve`, which that command checks.
    """

    pools: Annotated[tuple[Pool, ...], Meta(min_length=1)]
    balancer: Balancer = Balancer()
    tls: Tls = Tls()
    ray: dict[str, Any] = {}

    def __post_init__(self) -> None:
        _unique((pool.name for pool in self.pools), "pools have the name")
        _unique((model for pool in self.pools for model in pool.models), "pools have the model")
        _unique(
            (address for pool in self.pools for each in pool.instances for address in _both(each)), "instances have"
        )
        named = self.balancer.default_pool
        if named is not None and named not in {pool.name for pool in self.pools}:
            raise ValueError(f"balancer.default_pool is {named!r}, and no pool has this name")
        if self.balancer.flight != OFF and not self.flight_pools:
            raise ValueError("balancer.flight has an address, and no pool has Flight: give instances flight")

    @property
    def default_pool(self) -> Pool | None:
        """The pool of requests that name no pool's model, or None."""
        if self.balancer.default_pool is None:
            return self.pools[0] if len(self.pools) == 1 else None
        return next(pool for pool in self.pools if pool.name == self.balancer.default_pool)

    @property
    def flight_pools(self) -> tuple[Pool, ...]:
        """The pools whose instances have Flight."""
        return tuple(pool for pool in self.pools if pool.has_flight)


def read_cluster(path: Path) -> Cluster:
    """Return the content of a `cluster.toml`.

    Raises:
        InputError: the file cannot be read, is not TOML, or has an invalid key; the message names it.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Cluster)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    except msgspec.ValidationError as error:
        advice = f"; the keys are {_keys(str(error))}" if "unknown field" in str(error) else ""
        raise InputError(f"{path}: {error}{advice}") from None


def _keys(message: str) -> str:
    """Return the keys of the table in which an unknown one was found, from msgspec's path at the end of its message."""
    for mark, struct in ((".instances", Instance), (".pools", Pool), (".balancer", Balancer), (".tls", Tls)):
        if mark in message.rpartition(" at ")[2]:
            return ", ".join(struct.__struct_fields__)
    return ", ".join(Cluster.__struct_fields__)


def _both(instance: Instance) -> Iterator[str]:
    yield instance.http
    if instance.flight is not None:
        yield instance.flight
