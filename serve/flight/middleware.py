"""What every Flight call has: an id (the caller's `x-request-id` or a new one, sent back in that header) and an API key."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import pyarrow.flight as fl

from fletcher.runtime.errors import FletcherError

from ..access.gate import Gate
from ..engine.terms import Terms
from ..request_headers import read_priority, read_timeout
from .errors import flight_error

if TYPE_CHECKING:
    from ..observe.tracing import Trace, Tracing

__all__ = [
    "KeyFactory",
    "RequestIdFactory",
    "TermsFactory",
    "TraceFactory",
    "client_of",
    "request_id",
    "require_admin",
    "terms_of",
    "trace_of",
]

HEADER = "x-request-id"
#: Flight's service in gRPC, and its methods (format/Flight.proto of Arrow).
SERVICE = "arrow.flight.protocol.FlightService"
METHODS = {
    fl.FlightMethod.LIST_FLIGHTS: "ListFlights",
    fl.FlightMethod.GET_FLIGHT_INFO: "GetFlightInfo",
    fl.FlightMethod.GET_SCHEMA: "GetSchema",
    fl.FlightMethod.DO_GET: "DoGet",
    fl.FlightMethod.DO_PUT: "DoPut",
    fl.FlightMethod.DO_ACTION: "DoAction",
    fl.FlightMethod.LIST_ACTIONS: "ListActions",
    fl.FlightMethod.DO_EXCHANGE: "DoExchange",
}
_plain_id = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class _RequestId(fl.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, value: str) -> None:
        self.value = value

    def sending_headers(self) -> dict[str, str]:
        return {HEADER: self.value}


class RequestIdFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Gives every call its id."""

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> _RequestId:
        """Takes the caller's id where it is plain."""
        for value in headers.get(HEADER, []):
            if isinstance(value, str) and _plain_id.fullmatch(value):
                return _RequestId(value)
        return _RequestId("req-" + secrets.token_hex(8))


class _Client(fl.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, name: str, authorization: str | None) -> None:
        self.name = name
        self.authorization = authorization


class KeyFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Lets calls in by the same gate as HTTP."""

    def __init__(self, gate: Gate) -> None:
        """
        Args:
            gate: who may ask.
        """
        super().__init__()
        self._gate = gate

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> _Client:
        """Checks the bearer token of the header `authorization`."""
        values = headers.get("authorization", [])
        authorization = values[0] if values and isinstance(values[0], str) else None
        try:
            return _Client(self._gate.enter("key", authorization, peer=None), authorization)
        except FletcherError as error:
            raise flight_error(error) from None


class _Terms(fl.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, terms: Terms) -> None:
        self.terms = terms


class TermsFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Reads the headers `x-priority` and `x-request-timeout`, as on HTTP: pyarrow does not show gRPC's own deadline."""

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> _Terms:
        """Refuses what is none."""
        try:
            priority = read_priority(_value(headers, "x-priority"))
            timeout = read_timeout(_value(headers, "x-request-timeout"))
        except FletcherError as error:
            raise flight_error(error) from None
        return _Terms(Terms(priority, "", None if timeout is None else time.monotonic() + timeout))


class _Traced(fl.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, trace: Trace | None) -> None:
        self.trace = trace

    def call_completed(self, error: Exception | None) -> None:
        if self.trace is not None:
            self.trace.end()


class TraceFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Begins a span for every call that was let in, below the one that its `traceparent` names."""

    def __init__(self, tracing: Tracing) -> None:
        """
        Args:
            tracing: where spans go.
        """
        super().__init__()
        self._tracing = tracing

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> _Traced:
        """Health checks and descriptions are traced, too: they are few."""
        method = METHODS.get(info.method, "unknown")
        plain = {name: values[0] for name, values in headers.items() if values and isinstance(values[0], str)}
        # OpenTelemetry's semantic conventions for RPC.
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method}
        return _Traced(self._tracing.begin(f"{SERVICE}/{method}", plain, attributes))


def trace_of(context: Any) -> Trace | None:
    """What is told of a call's stages, or None."""
    traced = context.get_middleware("trace")
    return None if traced is None else traced.trace


def _value(headers: dict[str, list[str]], name: str) -> bytes | None:
    values = headers.get(name, [])
    return values[0].encode("latin-1", "replace") if values and isinstance(values[0], str) else None


def terms_of(context: Any) -> Terms:
    """How a call's batches wait; a call without a key counts by its peer's address, without the port."""
    terms: Terms = context.get_middleware("terms").terms
    return Terms(terms.priority, client_of(context) or peer_of(context), terms.deadline, trace_of(context))


def request_id(context: Any) -> str:
    """The id of a call."""
    return str(context.get_middleware("request-id").value)


def peer_of(context: Any) -> str:
    """The address of a call's peer, without scheme and port: gRPC says `ipv4:127.0.0.1:5000` or `ipv6:[::1]:5000`."""
    return str(context.peer()).rpartition(":")[0].partition(":")[2].strip("[]")


def require_admin(gate: Gate, context: Any) -> None:
    """
    Raises:
        UnauthorizedError, ForbiddenError: the call's key is no admin's, or there are no keys and it comes from elsewhere.
    """
    gate.enter("admin", context.get_middleware("key").authorization, peer=peer_of(context))


def client_of(context: Any) -> str:
    """The name of a call's API key; empty without keys."""
    return str(context.get_middleware("key").name)
