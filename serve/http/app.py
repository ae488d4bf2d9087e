"""The HTTP door: a plain ASGI application over the models' engines. Any ASGI server can carry it; `http_server` has ours.

It is written on ASGI itself: a framework's routing, request and response objects cost more than everything else here together
(benchmarks/http_stacks measures it). Here is what all routes share; each API has a file of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from fletcher.runtime.errors import DeadlineError, FletcherError

from ..access.gate import Gate
from ..errors import MethodError, UnauthorizedError, UnknownRouteError
from ..longbow.door import LongbowDoor
from ..models.registry import Models
from ..observe.logs import trace_fields
from ..statuses import retry_after
from .apis.admin import admin_routes
from .apis.cbor import encode_routes
from .apis.cohere.routes import cohere_routes
from .apis.longbow import longbow_routes
from .apis.openai.routes import openai_routes
from .apis.service import service_routes
from .apis.tei.routes import tei_routes
from .bridge import Bridge, ClientLeftError, Message, Receive
from .call import Call, Limits, Response, Scope
from .errors import OPENAI, ErrorShape
from .openapi import openapi_document
from .routes import Route

if TYPE_CHECKING:
    from ..observe.tracing import Trace, Tracing

__all__ = ["HttpApp"]

logger = logging.getLogger("fletcher.serve.http")

Send = Callable[[Message], Awaitable[None]]

#: What OpenAI's clients read the id from, and what a caller may send to find its request in the log.
REQUEST_ID = b"x-request-id"
_plain_id = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

#: Seconds between two looks at bodies that are slow to come.
WATCH_SECONDS = 1.0


class HttpApp:
    """The ASGI application. One event loop serves it."""

    def __init__(
        self,
        models: Models,
        *,
        gate: Gate | None = None,
        limits: Limits | None = None,
        longbow: LongbowDoor | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """
        Args:
            models: what answers; the caller starts and stops them.
            gate: who may ask what; None asks for no key.
            limits: what a request may have.
            longbow: where `/v1/ingest` writes to; None refuses it.
            tracing: where spans go; None makes none.
        """
        self._models = models
        self._gate = Gate(None) if gate is None else gate
        self._limits = Limits() if limits is None else limits
        self._metrics = models.metrics
        self._tracing = tracing
        self._bridge: Bridge | None = None
        self._bodies: dict[asyncio.Task[Any], float] = {}
        self._ids = itertools.count()
        self._id_prefix = b"req-" + os.urandom(6).hex().encode() + b"-"
        routes = [
            *openai_routes(),
            *tei_routes(),
            *cohere_routes(),
            *encode_routes(),
            *longbow_routes(longbow),
            *admin_routes(),
            *service_routes(),
            Route("GET", "/openapi.json", self._schema, access="open"),
        ]
        self._openapi = msgspec.json.encode(openapi_document(routes, self._limits, keys=self._gate.keys is not None))
        self._routes: dict[str, dict[str, Route]] = {}
        self._prefixes: dict[str, dict[str, Route]] = {}
        for route in routes:
            fixed, brace, _ = route.path.partition("{")
            (self._prefixes if brace else self._routes).setdefault(fixed, {})[route.method] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application speaks HTTP, not {scope['type']}")  # ASGI: no lifespan, no websockets
        started = time.perf_counter()
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
            self._watch_bodies()
        request_id = self._request_id(scope)
        name, methods = self._find(scope["path"])
        shape = next(iter(methods.values())).shape if methods else OPENAI
        trace = None if self._tracing is None else self._begin_trace(self._tracing, scope, name, methods, request_id)
        try:
            route = self._choose(scope, methods)
            call = Call(scope, receive, request_id, self._models, self._limits, self._bridge, self._bodies)
            call.trace = trace
            if route.access != "open":
                call.client = self._enter(route, call)
            response = await route.handler(call)
        except FletcherError as error:
            response = self._refuse(error, request_id, shape, trace)
        except ClientLeftError:
            self._metrics.answered("http", name, "left", time.perf_counter() - started)
            if trace is not None:
                trace.fail("left")
                trace.end()
            return
        except Exception:
            # The last resort: a defect of ours. The client learns that it happened; the log has the rest.
            logger.exception("request failed", extra={"fields": {"request_id": request_id.decode(), "route": name}})
            response = self._refuse(FletcherError("internal error"), request_id, shape, trace)
        await self._send(response, request_id, send)
        seconds = time.perf_counter() - started
        self._metrics.answered("http", name, response.status, seconds)
        if trace is not None:
            trace.end({"http.response.status_code": response.status}, broken=response.status >= 500)
        if logger.isEnabledFor(logging.DEBUG):
            fields = {
                "request_id": request_id.decode(),
                "route": name,
                "status": response.status,
                "milliseconds": round(seconds * 1000, 3),
            }
            logger.debug("request", extra={"fields": fields | trace_fields(trace)})

    def _begin_trace(
        self, tracing: Tracing, scope: Scope, name: str, methods: Mapping[str, Route], request_id: bytes
    ) -> Trace | None:
        """A span for whatever computes something; probes and unknown paths would only be in the way."""
        if all(route.access == "open" for route in methods.values()):
            return None
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        # OpenTelemetry's semantic conventions for HTTP servers, 1.30.
        attributes = {"http.request.method": scope["method"], "http.route": name, "url.scheme": scope["scheme"]}
        return tracing.begin(
            f"{scope['method']} {name}", headers, attributes | {"fletcher.request_id": request_id.decode()}
        )

    async def _send(self, response: Response, request_id: bytes, send: Send) -> None:
        body = response.body
        headers = [(b"content-type", response.content_type), (REQUEST_ID, request_id), *response.headers]
        if isinstance(body, bytes):
            headers.append((b"content-length", b"%d" % len(body)))
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        async for part in body:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _request_id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == REQUEST_ID and _plain_id.fullmatch(value):
                return bytes(value)
        return self._id_prefix + b"%x" % next(self._ids)

    def _find(self, path: str) -> tuple[str, Mapping[str, Route]]:
        if methods := self._routes.get(path):
            return path, methods
        for prefix, methods in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return next(iter(methods.values())).path, methods
        return "unknown", {}

    def _choose(self, scope: Scope, methods: Mapping[str, Route]) -> Route:
        method = scope["method"]
        if route := methods.get("GET" if method == "HEAD" else method):
            return route
        if methods:
            raise MethodError(f"{scope['path']} does not answer to {method}, but to {', '.join(methods)}", [*methods])
        raise UnknownRouteError(f"there is nothing at {scope['path']}: /docs lists what there is")

    def _enter(self, route: Route, call: Call) -> str:
        if self._gate.keys is None and route.access == "key":
            return ""
        authorization = call.headers.get(b"authorization")
        peer = call.scope.get("client")
        return self._gate.enter(
            route.access,
            None if authorization is None else authorization.decode("latin-1"),
            peer=peer[0] if peer else None,
            browser=b"origin" in call.headers,
        )

    def _refuse(
        self, error: FletcherError, request_id: bytes, shape: ErrorShape, trace: Trace | None = None
    ) -> Response:
        status = shape.status(error)
        self._metrics.failed(error)
        fields = {"request_id": request_id.decode(), "status": status, "error": type(error).__name__}
        fields |= trace_fields(trace)
        if trace is not None:
            trace.fail(type(error).__name__)
        if status >= 500 and not isinstance(error, DeadlineError):
            logger.error("request failed", extra={"fields": fields | {"reason": str(error)}})
        else:
            logger.info("request refused", extra={"fields": fields})
        headers: list[tuple[bytes, bytes]] = []
        if (seconds := retry_after(error)) is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(seconds)))
        if isinstance(error, MethodError):
            headers.append((b"allow", ", ".join(error.allowed).encode()))
        if isinstance(error, UnauthorizedError):
            headers.append((b"www-authenticate", b"Bearer"))
        return Response(status, shape.encode(error, request_id.decode()), headers=tuple(headers))

    def _watch_bodies(self) -> None:
        """One timer for all requests: one for each would cost every request what few of them need."""
        loop = asyncio.get_running_loop()
        late = loop.time() - self._limits.body_seconds
        for task in [task for task, since in self._bodies.items() if since < late]:
            del self._bodies[task]
            task.cancel()
        loop.call_later(min(WATCH_SECONDS, self._limits.body_seconds / 4), self._watch_bodies)

    async def _schema(self, call: Call) -> Response:
        return Response(200, self._openapi)
