"""`read_state`: the state of every instance of a cluster now, from its own HTTP endpoints."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError, ServiceError

from ..access.addresses import HostPort, parse
from ..top.scrape import Scrape, parse_page
from .ask import Asker
from .config import Cluster, Pool

__all__ = ["MODELS", "Device", "InstanceState", "Place", "VersionState", "places", "read_instances"]

#: Path of an instance that lists its models.
MODELS: Final = "/v1/models"

#: Most instances that are asked at the same time.
AT_A_TIME: Final = 32

#: Meaning of statuses for the operator.
ADVICE: Final = MappingProxyType(
    {
        401: ", because it needs a key: give --api-key-file",
        403: ", because the role of the key may not read it: an admin's may, a user's reads models, a monitor's metrics",
    }
)

State = Literal["ready", "not ready", "unreachable"]


class VersionState(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model in an instance.

    Attributes:
        model, version, variant, provider: as the instance names them.
        names: all names of the model in the instance.
        space: identifier of the space of its vectors.
        digest: hash of its artifact's files.
        canary: origin of its canary: `self-made`, `published` or `verified`.
        ready: True if its canary passed at its latest run; None if the metrics may not be read.
        answers: True if it answers requests that name the model without a version.
    """

    model: str
    version: str
    variant: str
    provider: str
    names: tuple[str, ...]
    space: str
    digest: str
    canary: str
    ready: bool | None
    answers: bool


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU of an instance.

    Attributes:
        device: its name.
        in_service: True if it computes.
        memory: bytes that its sessions hold; None if they are not known.
    """

    device: str
    in_service: bool
    memory: float | None


class InstanceState(msgspec.Struct, frozen=True, kw_only=True):
    """State of an instance.

    Attributes:
        pool, name, address: its pool, its name and its address of HTTP.
        state: `ready`, `not ready` or `unreachable`.
        reason: why it is not ready or cannot be reached; empty if it is ready.
        unread: endpoints that it did not answer, each with the reason.
        versions: the versions of its models.
        queue_seconds: seconds until its waiting tokens are computed; None if the metrics may not be read.
        cache_hits: share of texts whose vectors were in the cache; None if none was looked up.
        devices: its GPUs.
    """

    pool: str
    name: str
    address: str
    state: State
    reason: str = ""
    unread: tuple[str, ...] = ()
    versions: tuple[VersionState, ...] = ()
    queue_seconds: float | None = None
    cache_hits: float | None = None
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """An instance and its address of HTTP.

    Attributes:
        pool, name: its pool and its name; an instance that DNS named has its address as its name.
        address: its address.
    """

    pool: str
    name: str
    address: HostPort


def places(cluster: Cluster) -> Iterator[Place]:
    """Yield the instances of a cluster; those of a DNS name as it is answered now.

    Raises:
        InputError: a DNS name has no address.
    """
    for pool in cluster.pools:
        if pool.dns is None:
            for each in pool.instances:
                yield Place(pool.name, each.name, parse(each.http, "http"))
        else:
            for host in _addresses(pool, pool.dns):
                address = HostPort(host, pool.http_port)
                yield Place(pool.name, str(address), address)


def _addresses(pool: Pool, name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, pool.http_port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(
            f"the pool {pool.name!r} has the DNS name {name!r}, which has no address ({error.strerror})"
        ) from error
    return list(dict.fromkeys(str(location[0]) for *_, location in found))


def read_instances(found: list[Place], asker: Asker) -> list[InstanceState]:
    """Return the state of each instance, in the order of the places."""
    with ThreadPoolExecutor(min(AT_A_TIME, len(found)) or 1) as pool:
        return list(pool.map(lambda place: _read(place, asker), found))


def _read(place: Place, asker: Asker) -> InstanceState:
    away = InstanceState(pool=place.pool, name=place.name, address=str(place.address), state="unreachable")
    try:
        ready = asker.get(place.address, "/ready")
    except ServiceError as error:
        return msgspec.structs.replace(away, reason=str(error))
    state: State = "ready" if ready.status == 200 else "not ready"
    reader = _Reader(place.address, asker)
    scrape = reader.scrape()
    return msgspec.structs.replace(
        away,
        state=state,
        reason="" if state == "ready" else _reason(ready.body, ready.status),
        versions=tuple(reader.versions(scrape)),
        unread=tuple(reader.unread),
        queue_seconds=None if scrape is None else scrape.total("fletcher_queue_seconds"),
        cache_hits=None if scrape is None else _cache_hits(scrape),
        devices=() if scrape is None else tuple(_devices(scrape)),
    )


class _Reader:
    """Endpoints of one instance, and those that it did not answer."""

    def __init__(self, address: HostPort, asker: Asker) -> None:
        self._address = address
        self._asker = asker
        self.unread: list[str] = []

    def get(self, path: str) -> bytes | None:
        try:
            answer = self._asker.get(self._address, path)
        except ServiceError as error:
            self.unread.append(f"{path}: {error}")
            return None
        if answer.status == 200:
            return answer.body
        self.unread.append(f"{path}: answered {answer.status}{ADVICE.get(answer.status, '')}")
        return None

    def scrape(self) -> Scrape | None:
        page = self.get("/metrics")
        if page is None:
            return None
        try:
            return parse_page(page.decode("utf-8", "replace"), time.monotonic())
        except ServiceError as error:
            self.unread.append(f"/metrics: {error}")
            return None

    def versions(self, scrape: Scrape | None) -> Iterator[VersionState]:
        """Yield the versions that answer, from `/v1/models`, and the others that the metrics name."""
        body = self.get(MODELS)
        answering = [] if body is None else self._models(body)
        for model in answering:
            yield _version(model, scrape, answers=True)
        first = {(model.id, model.version) for model in answering}
        for labels in [] if scrape is None or body is None else sorted(scrape.of("fletcher_model_info")):
            named = dict(labels)
            key = named["model"], named["version"]
            if key in first:
                continue
            one = self.get(f"{MODELS}/{quote('@'.join(key), safe='@')}")
            if one is not None:
                yield from (_version(model, scrape, answers=False) for model in self._one(one))

    def _models(self, body: bytes) -> list[_Model]:
        try:
            return decode_json(body, _Models).data
        except msgspec.DecodeError as error:
            self.unread.append(f"{MODELS}: {error}")
            return []

    def _one(self, body: bytes) -> Iterator[_Model]:
        try:
            yield decode_json(body, _Model)
        except msgspec.DecodeError as error:
            self.unread.append(f"{MODELS}: {error}")


class _Model(msgspec.Struct, frozen=True):
    """The fields of `/v1/models` that are compared. Servers of other versions have more."""

    id: str
    version: str
    variant: str
    provider: str
    names: tuple[str, ...]
    digest: str
    canary: str
    space: str


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class _NotReady(msgspec.Struct, frozen=True):
    reason: str = ""


def _reason(body: bytes, status: int) -> str:
    try:
        return decode_json(body, _NotReady).reason or f"/ready answered {status}"
    except msgspec.DecodeError:
        return f"/ready answered {status}"


def _version(model: _Model, scrape: Scrape | None, *, answers: bool) -> VersionState:
    ready: bool | None = None
    if scrape is not None:
        values = scrape.of("fletcher_model_ready")
        value = values.get((("model", model.id), ("version", model.version)))
        ready = None if value is None else value == 1.0
    return VersionState(
        model=model.id,
        version=model.version,
        variant=model.variant,
        provider=model.provider,
        names=model.names,
        space=model.space,
        digest=model.digest,
        canary=model.canary,
        ready=ready,
        answers=answers,
    )


def _cache_hits(scrape: Scrape) -> float | None:
    hits, misses = scrape.total("fletcher_vector_cache_hits_total"), scrape.total("fletcher_vector_cache_misses_total")
    return hits / (hits + misses) if hits + misses else None


def _devices(scrape: Scrape) -> Iterator[Device]:
    memory = dict(scrape.by_label("fletcher_vram_allocated_bytes", "device"))
    for device, value in sorted(scrape.by_label("fletcher_gpu_in_service", "device")):
        yield Device(device=device, in_service=value == 1.0, memory=memory.get(device))
