"""`HttpApp`: ASGI application that answers HTTP requests with the models' engines. `http.server` runs it on uvicorn.

Any other ASGI server can run it, too. It does not use a web framework, because the routing, request and response objects of a
framework take more time than all other code of the application (benchmarks/http_stacks measures it). This module has the
parts that all routes share; `apis` has the routes of each API.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import msgspec

from fletcher.runtime.errors import DeadlineError, FletcherError

from ..access.gate import Gate
from ..access.grant import NOBODY
from ..access.permit import Permit
from ..access.proxies import FORWARDING_MARKS
from ..engine.terms import Priority, Terms
from ..errors import ForbiddenError, KeysPendingError, MethodError, RateLimitError, UnauthorizedError, UnknownRouteError
from ..models.changes import ADMIN_OFF, AdminRules
from ..models.registry import Models
from ..models.spaces import read_spaces
from ..observe.logs import trace_fields
from ..observe.record import Consumer
from ..observe.requests import RecordDraft, Requests
from ..request_headers import (
    PLAIN_ID,
    PRIORITY,
    REQUEST_ID,
    cap_priority,
    read_on_truncate,
    read_priority,
    read_timeout,
)
from ..statuses import retry_after
from ..tls.names import EXTENSION
from .bridge import Bridge, ClientLeftError, Receive
from .call import Call, Limits, Response, Scope, Send
from .coding.answers import shrink
from .errors import OPENAI, ErrorShape
from .json import PIECE_BYTES
from .openapi import openapi_document
from .playground.options import Pages
from .route import Route, RouteTable
from .routes import ADMIN_PATHS, PAGES, http_routes

if TYPE_CHECKING:
    from ..longbow.door import LongbowDoor
    from ..observe.trace import Trace
    from ..observe.tracing import Tracing

__all__ = ["HttpApp"]

logger = logging.getLogger("fletcher.serve.http")

ID_HEADER = REQUEST_ID.encode()
PRIORITY_HEADER = PRIORITY.encode()

#: Header with the number of texts that truncation has cut; it is absent if none was cut.
TRUNCATED = b"x-truncated"

#: Headers of requests that a page of a website or a proxy has sent.
INDIRECT = frozenset({b"origin", *FORWARDING_MARKS})

#: Headers of an answer that refuses because of a limit; `retry-after` is one of them.
RETRY_MILLISECONDS = b"retry-after-ms"

#: Seconds for which a request waits for the keys of an issuer.
KEYS_SECONDS = 10.0

#: Seconds between two checks for bodies that arrive too slowly.
WATCH_SECONDS = 1.0


class HttpApp:
    """ASGI application for one event loop."""

    def __init__(
        self,
        models: Models,
        *,
        gate: Gate | None = None,
        limits: Limits | None = None,
        longbow: LongbowDoor | None = None,
        tracing: Tracing | None = None,
        consumers: Sequence[Consumer] = (),
        pages: Pages = PAGES,
        admin: AdminRules = ADMIN_OFF,
    ) -> None:
        """Build the application.

        Args:
            models: models that answer; the caller starts and stops them.
            gate: checks the access of callers. Default: a gate without keys.
            limits: limits of a request. Default: `Limits()`.
            longbow: destination of `/v1/ingest`; None rejects such requests.
            tracing: begins and ends spans; None disables traces.
            consumers: functions that receive the record of every request, in addition to metrics, log and traces.
            pages: options of the pages for people.
            admin: rules of the admin API, which is off by default.
        """
        self._models = models
        self._gate = Gate(None) if gate is None else gate
        self._limits = Limits() if limits is None else limits
        self._tracing = tracing
        self._requests = Requests(models.metrics, tracing, consumers)
        self._bridge: Bridge | None = None
        self._bodies: dict[asyncio.Task[Any], float] = {}
        self._ids = itertools.count()
        self._id_prefix = b"req-" + os.urandom(6).hex().encode() + b"-"
        routes = [*http_routes(longbow, admin, pages), Route("GET", "/openapi.json", self._schema, access="open")]
        self._make_openapi = partial(
            openapi_document, routes, self._limits, keys=self._gate.identifies, root_path=pages.root_path
        )
        self._routes = RouteTable(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the lifespan events of ASGI.

        Raises:
            RuntimeError: the scope is neither `http` nor `lifespan`.
        """
        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
            self._watch_bodies()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = headers.get(ID_HEADER)
        if request_id is None or not PLAIN_ID.fullmatch(request_id):
            request_id = b"%s%x" % (self._id_prefix, next(self._ids))
        path = scope["path"]
        name, methods = self._routes.fixed.get(path) or self._routes.find(path)
        shape = next(iter(methods.values())).shape if methods else OPENAI
        draft = RecordDraft(door="http", id=request_id.decode(), route=name)
        call: Call | None = None
        with self._requests.wrap(draft):
            try:
                try:
                    if self._tracing is not None:
                        draft.trace = self._begin_trace(self._tracing, scope, methods, draft)
                    try:
                        route, call = self._open(scope, headers, receive, methods, draft)
                    except KeysPendingError as pending:
                        await asyncio.wait([asyncio.wrap_future(pending.ready)], timeout=KEYS_SECONDS)
                        route, call = self._open(scope, headers, receive, methods, draft)
                    if call.permit is not None and (entering := call.enter()) is not None:
                        await entering
                    response = await route.handler(call)
                    if draft.truncated and call.on_truncate != "allow":
                        response = _report_truncated(response, draft)
                except FletcherError as error:
                    response = self._refuse(error, draft, shape)
                except ClientLeftError:
                    return
                except Exception:
                    # A defect of the server: the client gets a general message, and the log has the details.
                    logger.exception("request failed", extra={"fields": {"request_id": draft.id, "route": name}})
                    response = self._refuse(
                        FletcherError(
                            "internal error: the log of the server has the details under the id of this request"
                        ),
                        draft,
                        shape,
                    )
                if (accept := headers.get(b"accept-encoding")) is not None:
                    shrunk = await shrink(response.body, response.density, accept, self._limits.compress_bytes)
                    if shrunk is not None:
                        response = replace(response, body=shrunk[0], headers=(*response.headers, *shrunk[1]))
                await _send(response, draft, send, None if call is None else call.permit)
            finally:
                self._limits.budget.hold(-draft.held, draft)
                if call is not None and call.permit is not None and (leaving := call.leave()) is not None:
                    await leaving

    def _open(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        methods: Mapping[str, Route],
        draft: RecordDraft,
    ) -> tuple[Route, Call]:
        """Choose the route, read the headers and check the access of the caller.

        Raises:
            UnknownRouteError: the path does not exist.
            MethodError: the path does not support the method.
            FieldError: a header cannot be used.
            UnauthorizedError, ForbiddenError: the caller may not use the route.
        """
        peer = scope.get("client")
        draft.client = draft.peer = peer[0] if peer else ""
        method = scope["method"]
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            if methods:
                raise MethodError(f"{scope['path']} does not support {method}: use {', '.join(methods)}", [*methods])
            if scope["path"].startswith(ADMIN_PATHS):
                raise UnknownRouteError(
                    "the admin API is not here: start the server with --admin on, or with an address of its own"
                )
            raise UnknownRouteError(f"the path {scope['path']} does not exist: /docs lists the paths")
        if self._gate.site is not None and route.access != "open":  # a probe calls the server by any of its addresses
            self._gate.site.check(method, headers)
        if self._gate.check is not None and route.access != "open":
            self._gate.check()
        priority: Priority | None = None
        on_truncate = self._limits.on_truncate
        if (value := headers.get(b"x-on-truncate")) is not None:
            on_truncate = read_on_truncate(value)
        timeout = deadline = None
        if (value := headers.get(PRIORITY_HEADER)) is not None:
            priority = read_priority(value)
        if (value := headers.get(b"x-request-timeout")) is not None:
            timeout = read_timeout(value)
            deadline = time.monotonic() + timeout
        spaces: tuple[str, ...] = ()
        if (value := headers.get(b"if-space")) is not None:
            spaces = read_spaces(value)
        grant, permit, salt = NOBODY, None, ""
        if route.access == "admin" or (self._gate.busy and route.access != "open"):
            grant = self._gate.enter(
                route.access,
                _credentials(headers),
                peer=peer[0] if peer else None,
                indirect=not INDIRECT.isdisjoint(headers),
                route=draft.route,
                certificate=_certificate(scope) if self._gate.certificates else None,
            )
            draft.client = grant.name or draft.client
            if grant.key is not None and grant.key.priority is not None:
                asked, priority = priority, cap_priority(priority, grant.key.priority)
                draft.chosen = priority if priority is not None and priority != asked else ""
            salt = self._gate.salt_of(grant, draft.client)
            if route.access == "key":
                permit = self._gate.permit(grant, draft.peer)
        terms = Terms(priority or "normal", draft.client, deadline, spaces=spaces, salt=salt)
        assert self._bridge is not None
        call = Call(
            scope=scope,
            headers=headers,
            receive=receive,
            models=self._models,
            limits=self._limits,
            bridge=self._bridge,
            bodies=self._bodies,
            client=grant.name,
            timeout=timeout,
            priority=priority,
            terms=terms,
            on_truncate=on_truncate,
            draft=draft,
            permit=permit,
        )
        return route, call

    def _begin_trace(
        self, tracing: Tracing, scope: Scope, methods: Mapping[str, Route], draft: RecordDraft
    ) -> Trace | None:
        """Begin a span for a request that computes something. Probes and unknown paths do not get spans."""
        if all(route.access == "open" for route in methods.values()):
            return None
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        # OpenTelemetry's semantic conventions for HTTP servers, 1.30.
        attributes = {"http.request.method": scope["method"], "http.route": draft.route, "url.scheme": scope["scheme"]}
        return tracing.begin(
            f"{scope['method']} {draft.route}", headers, attributes | {"fletcher.request_id": draft.id}
        )

    def _refuse(self, error: FletcherError, draft: RecordDraft, shape: ErrorShape) -> Response:
        """Log an error and return the answer to it."""
        status = shape.status(error)
        draft.error = type(error).__name__
        if isinstance(error, ForbiddenError) and error.client:
            draft.client = error.client
        who = {"client": draft.client, "peer": draft.peer}
        fields = {"request_id": draft.id, "status": status, "error": draft.error} | who | trace_fields(draft.trace)
        if status >= 500 and not isinstance(error, DeadlineError):
            logger.error("request failed", extra={"fields": fields | {"reason": str(error)}})
        else:
            logger.info("request refused", extra={"fields": fields})
        headers: list[tuple[bytes, bytes]] = []
        if (seconds := retry_after(error)) is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(seconds)))
        if isinstance(error, RateLimitError):
            headers += [(RETRY_MILLISECONDS, b"%d" % math.ceil(error.retry_after * 1000)), *error.headers]
        if isinstance(error, MethodError):
            headers.append((b"allow", ", ".join(error.allowed).encode()))
        if isinstance(error, UnauthorizedError):
            headers.append((b"www-authenticate", b"Bearer"))
        return Response(status, shape.encode(error, draft.id), headers=tuple(headers))

    def _watch_bodies(self) -> None:
        """Cancel requests whose bodies are late. One timer serves all requests, because few requests need it."""
        loop = asyncio.get_running_loop()
        late = loop.time() - self._limits.body_seconds
        for task in [task for task, since in self._bodies.items() if since < late]:
            del self._bodies[task]
            task.cancel()
        loop.call_later(min(WATCH_SECONDS, self._limits.body_seconds / 4), self._watch_bodies)

    async def _schema(self, call: Call) -> Response:
        """Return the OpenAPI document, made for the first request: a start does not wait for the 50 ms that it takes."""
        return Response(200, await asyncio.to_thread(lambda: self._openapi))

    @cached_property
    def _openapi(self) -> bytes:
        return msgspec.json.encode(self._make_openapi())


def _report_truncated(response: Response, draft: RecordDraft) -> Response:
    """Log that texts were cut, and return the answer with the header that says so."""
    fields = {"request_id": draft.id, "model": draft.model, "texts": draft.truncated}
    logger.info("texts were truncated", extra={"fields": fields | trace_fields(draft.trace)})
    return replace(response, headers=(*response.headers, (TRUNCATED, b"%d" % draft.truncated)))


def _certificate(scope: Scope) -> str | None:
    """Return the name in the certificate of the client, which the protocol or a front has put into the scope."""
    extension = (scope.get("extensions") or {}).get(EXTENSION)
    return None if extension is None else str(extension["name"])


def _credentials(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the bearer token of a request in the form of `Authorization`, or None. Azure's clients send `api-key`."""
    if (authorization := headers.get(b"authorization")) is not None:
        return authorization.decode("latin-1")
    key = headers.get(b"api-key") or headers.get(b"x-api-key")
    return None if key is None else f"Bearer {key.decode('latin-1')}"


async def _send(response: Response, draft: RecordDraft, send: Send, permit: Permit | None) -> None:
    """Send an answer; record its status, its size and the time since the answer of the engine in the draft."""
    headers = [(b"content-type", response.content_type), (ID_HEADER, draft.id.encode()), *response.headers]
    if draft.chosen:
        headers.append((PRIORITY_HEADER, draft.chosen.encode()))
    if permit is not None and response.status != 429:  # a refusal has the headers of its limit
        headers += permit.headers
    if draft.space and response.status == 200:
        headers.append((b"x-space", draft.space.encode()))
    body = response.body
    if isinstance(body, bytes):
        headers.append((b"content-length", b"%d" % len(body)))
        if draft.answered is not None:
            draft.stages.encode = time.perf_counter() - draft.answered
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    draft.status = response.status
    if isinstance(body, bytes):
        draft.bytes_out = size = len(body)
        start = 0
        while (
            size - start > PIECE_BYTES
        ):  # a client that does not read keeps its request, with the bytes that it holds, open
            await send({"type": "http.response.body", "body": body[start : start + PIECE_BYTES], "more_body": True})
            start += PIECE_BYTES
            await asyncio.sleep(0)  # a connection that broke in this write is reported before the next one
        await send({"type": "http.response.body", "body": body[start:] if start else body})
        return
    async for part in body:
        draft.bytes_out += len(part)
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Acknowledge the start and the end of the server. Neither needs work, because the caller starts and stops the models.

    Raises:
        RuntimeError: the scope is not `lifespan`.
    """
    if scope["type"] != "lifespan":
        raise RuntimeError(f"this application supports HTTP, not {scope['type']}")
    while True:
        event = (await receive())["type"]  # lifespan.startup, then lifespan.shutdown
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
