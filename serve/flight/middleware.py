"""Middleware of every Flight call: the request's id, the API key, and the headers for priority, timeout and trace."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow.flight as fl

from fletcher.runtime.errors import FletcherError

from ..access.gate import Gate
from ..access.grant import NOBODY, Grant
from ..access.permit import Permit
from ..engine.terms import Priority, Terms
from ..errors import ForbiddenError
from ..models.spaces import read_spaces
from ..observe.requests import RecordDraft, Requests
from ..request_headers import PEER, PLAIN_ID, PRIORITY, REQUEST_ID, cap_priority, read_priority, read_timeout
from .errors import flight_error
from .peers import peer_host

if TYPE_CHECKING:
    from ..observe.trace import Trace
    from ..observe.tracing import Tracing

__all__ = ["Caller", "CallerFactory", "RequestIdFactory", "admit", "caller_of", "peer_of", "request_id"]

#: Flight's service in gRPC (format/Flight.proto of Arrow).
SERVICE = "arrow.flight.protocol.FlightService"

#: Flight's methods: the name of each in gRPC, and its route in records and metrics.
METHODS = {
    fl.FlightMethod.LIST_FLIGHTS: ("ListFlights", "list"),
    fl.FlightMethod.GET_FLIGHT_INFO: ("GetFlightInfo", "info"),
    fl.FlightMethod.GET_SCHEMA: ("GetSchema", "schema"),
    fl.FlightMethod.DO_GET: ("DoGet", "get"),
    fl.FlightMethod.DO_PUT: ("DoPut", "put"),
    fl.FlightMethod.DO_ACTION: ("DoAction", "action"),
    fl.FlightMethod.LIST_ACTIONS: ("ListActions", "actions"),
    fl.FlightMethod.DO_EXCHANGE: ("DoExchange", "exchange"),
}

#: Methods that embed a stream. The class of a stream is `bulk`, unless its client names another one.
STREAMS = ("DoExchange", "DoPut")

Headers = Mapping[str, list[str]]


class _RequestId(fl.ServerMiddleware):  # type: ignore[misc]
    """Id of one call, which is sent back in a header."""

    def __init__(self, value: str) -> None:
        self.value = value

    def sending_headers(self) -> dict[str, str]:
        """Return the header with the id."""
        return {REQUEST_ID: self.value}


class RequestIdFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Factory of request ids: the caller's `x-request-id` if it is plain, otherwise a new id."""

    def __init__(self) -> None:
        super().__init__()
        self._latest = threading.local()

    @property
    def latest(self) -> str:
        """Latest id on this thread. For middleware that runs after this one, it is the id of the current call."""
        return str(self._latest.value)

    def start_call(self, info: Any, headers: Headers) -> _RequestId:
        """Choose the id of a call."""
        value = _header(headers, REQUEST_ID)
        plain = value is not None and PLAIN_ID.fullmatch(value) is not None
        self._latest.value = value.decode() if plain and value is not None else "req-" + secrets.token_hex(8)
        return _RequestId(self._latest.value)


@dataclass(frozen=True, slots=True)
class Caller:
    """Data of a call, from its headers.

    Attributes:
        client: name of the API key; empty if the server has no keys.
        authorization: value of the header `authorization`, or None.
        priority: priority class that the call names, or None.
        deadline: time by `time.monotonic()` at which the caller stops waiting for the answer, or None.
        headers: the first value of every text header, by name in lower case.
        method: name of the Flight method in gRPC.
        spaces: spaces whose vectors the caller accepts; empty if it accepts all.
        grant: rights of the caller.
        salted: True if it shares no cache with other clients.
        permit: use of the limits of its key, or None. Without keys, the server makes one when it knows the address.
    """

    client: str
    authorization: str | None
    priority: Priority | None
    deadline: float | None
    headers: Mapping[str, str]
    method: str
    spaces: tuple[str, ...] = ()
    grant: Grant = NOBODY
    permit: Permit | None = None
    salted: bool = False

    def begin_trace(self, tracing: Tracing, request_id: str) -> Trace | None:
        """Begin the span of the call, as a child of the span that its `traceparent` names."""
        # OpenTelemetry's semantic conventions for RPC.
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": self.method}
        return tracing.begin(f"{SERVICE}/{self.method}", self.headers, attributes | {"fletcher.request_id": request_id})

    def terms(self, draft: RecordDraft) -> Terms:
        """Return the priority, the client and the deadline of the call, for the engine."""
        return Terms(
            self.priority or "normal",
            draft.client,
            self.deadline,
            spaces=self.spaces,
            salt=draft.client if self.salted else "",
        )

    def stream_terms(self, draft: RecordDraft) -> Terms:
        """Return the terms of the first part of the call's stream."""
        return self.terms(draft).as_stream(self.priority or "bulk")


class _Caller(fl.ServerMiddleware):  # type: ignore[misc]
    """Middleware that holds the caller of one call."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def sending_headers(self) -> dict[str, str]:
        """Return the headers with the state of the limits, and the class of a stream whose client has named no class."""
        bulk = {PRIORITY: "bulk"} if self.caller.priority is None and self.caller.method in STREAMS else {}
        permit = self.caller.permit
        return bulk if permit is None else bulk | {name.decode(): value.decode() for name, value in permit.headers}

    def call_completed(self, exception: Exception | None) -> None:
        """End the use of the limits, also of a call that no handler has answered."""
        if self.caller.permit is not None:
            self.caller.permit.leave(0, 0)


class CallerFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Factory of callers: it checks API keys with the gate that HTTP uses, and reads the same headers as HTTP.

    The headers are `x-priority`, `x-request-timeout` and `if-space`. pyarrow does not give access to gRPC's deadline.
    """

    def __init__(self, gate: Gate, ids: RequestIdFactory, requests: Requests) -> None:
        """Create the factory.

        Args:
            gate: checks API keys.
            ids: factory that chose the id of the call before.
            requests: receives the records of calls that this factory rejects.
        """
        super().__init__()
        self._gate = gate
        self._ids = ids
        self._requests = requests

    def start_call(self, info: Any, headers: Headers) -> _Caller:
        """Return the caller, or reject the call before its client sends anything."""
        method, route = METHODS.get(info.method, ("unknown", "unknown"))
        try:
            return _Caller(self._read(headers, method, route))
        except FletcherError as error:
            translated = flight_error(error)
            draft = RecordDraft(door="flight", id=self._ids.latest, route=route, error=type(error).__name__)
            draft.status = type(translated).__name__
            if isinstance(error, ForbiddenError):
                draft.client = error.client
            with self._requests.wrap(draft):
                raise translated from None

    def _read(self, headers: Headers, method: str, route: str) -> Caller:
        """Return the caller.

        Raises:
            UnauthorizedError: the server requires an API key, and the call has none or a wrong one.
            ForbiddenError: the key is not for this call.
            RateLimitError: the client of the key is over a limit.
            FieldError: a header cannot be used.
        """
        texts = {name: values[0] for name, values in headers.items() if values and isinstance(values[0], str)}
        authorization = texts.get("authorization")
        # An action can be the metrics' or an admin's: then `FlightServer.do_action` asks for the role.
        grant = self._gate.enter(
            "call" if route == "action" else "key", authorization, peer=None, route=f"flight:{route}"
        )
        spaces = _header(headers, "if-space")
        priority, timeout = _header(headers, PRIORITY), _header(headers, "x-request-timeout")
        wanted = () if spaces is None else read_spaces(spaces)
        deadline = None if timeout is None else time.monotonic() + read_timeout(timeout)
        asked = None if priority is None else read_priority(priority)
        highest = None if grant.key is None else grant.key.priority
        permit = self._gate.permit(grant, None) if grant.name and route != "action" else None
        if permit is not None:
            permit.enter()
        return Caller(
            client=grant.name,
            authorization=authorization,
            priority=cap_priority(asked or ("bulk" if method in STREAMS else None), highest) if highest else asked,
            deadline=deadline,
            headers=texts,
            method=method,
            spaces=wanted,
            grant=grant,
            permit=permit,
            salted=bool(self._gate.salt_of(grant, "client")),
        )


def _header(headers: Headers, name: str) -> bytes | None:
    """Return the first value of a text header, or None."""
    values = headers.get(name, [])
    return values[0].encode("latin-1", "replace") if values and isinstance(values[0], str) else None


def caller_of(context: Any) -> Caller:
    """Return the caller of a call."""
    caller: Caller = context.get_middleware("caller").caller
    return caller


def request_id(context: Any) -> str:
    """Return the id of a call."""
    return str(context.get_middleware("request-id").value)


def admit(context: Any, gate: Gate) -> Permit | None:
    """Return the permit of a call whose limits are charged. Without keys, the address of the client has the limits.

    Raises:
        RateLimitError: the client is over a limit.
    """
    middleware = context.get_middleware("caller")
    caller: Caller = middleware.caller
    if caller.permit is None and not caller.grant.name and caller.grant.limited and caller.method != "DoAction":
        permit = gate.permit(caller.grant, peer_of(context))
        if permit is not None:
            permit.enter()
            middleware.caller = replace(caller, permit=permit)
        return permit
    return caller.permit


def peer_of(context: Any) -> str:
    """Return the address of a call's client, without scheme and port."""
    host = peer_host(str(context.peer()))
    if host is not None:
        return host
    # Only a front process of this server connects to this socket, which is in a private folder: it passes the address on.
    return caller_of(context).headers.get(PEER, "")
