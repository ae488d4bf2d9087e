"""The HTTP door: a plain ASGI application over the engine. Any ASGI server can carry it; `http_server` has ours.

It is written on ASGI itself: a framework's routing, request and response objects cost more than everything else here together
(benchmarks/http_stacks measures it).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fletcher.runtime import Encodings
from fletcher.runtime.errors import FletcherError

from . import openai_api
from .engine import Engine
from .errors import FieldError, MethodError, TooLargeError, UnknownRouteError
from .http_bridge import Bridge, ClientLeftError, Message, Receive
from .http_docs import DOCS_POLICY, docs_page
from .http_openapi import openapi_document
from .longbow.door import LongbowDoor, http_ingest
from .metrics import CONTENT_TYPE as METRICS_TYPE
from .readiness import Readiness
from .served import ServedModel
from .statuses import retry_after, status_of

__all__ = ["HttpApp"]

logger = logging.getLogger("fletcher.serve.http")

Scope = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

#: 2,048 texts of 16 KiB, or one book; more belongs into a bulk job.
MAX_BODY_BYTES = 32 << 20

#: Token ids of a request that are checked on the event loop; more would hold it up for over a millisecond.
INLINE_IDS = 8192

JSON = b"application/json"
#: What OpenAI's clients read the id from, and what a caller may send to find its request in the log.
REQUEST_ID = b"x-request-id"
_plain_id = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Response:
    """What a route gives."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handler = Callable[[Scope, Receive], Awaitable[Response]]


class HttpApp:
    """The ASGI application. One event loop serves it."""

    def __init__(
        self, engine: Engine, model: ServedModel, readiness: Readiness, *, max_body_bytes: int = MAX_BODY_BYTES
    ):
        """
        Args:
            engine: what answers; the caller starts and stops it.
            model: what is served, and under which names.
            readiness: what `/ready` asks.
            max_body_bytes: larger bodies are refused with 413.
        """
        self._engine = engine
        self._model = model
        self._readiness = readiness
        self._max_body_bytes = max_body_bytes
        self.longbow: LongbowDoor | None = None
        self._bridge: Bridge | None = None
        self._ids = itertools.count()
        self._id_prefix = b"req-" + os.urandom(6).hex().encode() + b"-"
        self._openapi = msgspec.json.encode(openapi_document(max_body_bytes))
        self._docs = docs_page()
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/v1/embeddings": {"POST": self._embeddings},
            "/v1/ingest": {"POST": self._ingest},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._schema},
            "/docs": {"GET": self._docs_page},
            "/": {"GET": self._home},
        }
        self._model_routes: Mapping[str, Handler] = {"GET": self._one_model}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"this application speaks HTTP, not {scope['type']}")  # ASGI: no lifespan, no websockets
        started = time.perf_counter()
        request_id = self._request_id(scope)
        route, methods = self._find(scope["path"])
        try:
            response = await self._choose(scope, methods)(scope, receive)
        except FletcherError as error:
            response = self._refuse(error, request_id)
        except ClientLeftError:
            self._engine.metrics.answered("http", route, "left", time.perf_counter() - started)
            return
        except Exception:
            # The last resort: a defect of ours. The client learns that it happened; the log has the rest.
            logger.exception("request failed", extra={"fields": {"request_id": request_id.decode(), "route": route}})
            response = self._refuse(FletcherError("internal error"), request_id)
        headers = [
            (b"content-type", response.content_type),
            (b"content-length", b"%d" % len(response.body)),
            (REQUEST_ID, request_id),
            *response.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
        seconds = time.perf_counter() - started
        self._engine.metrics.answered("http", route, response.status, seconds)
        if logger.isEnabledFor(logging.DEBUG):
            fields = {
                "request_id": request_id.decode(),
                "route": route,
                "status": response.status,
                "milliseconds": round(seconds * 1000, 3),
            }
            logger.debug("request", extra={"fields": fields})

    def _request_id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == REQUEST_ID and _plain_id.fullmatch(value):
                return bytes(value)
        return self._id_prefix + b"%x" % next(self._ids)

    def _find(self, path: str) -> tuple[str, Mapping[str, Handler]]:
        if methods := self._routes.get(path):
            return path, methods
        if path.startswith("/v1/models/"):
            return "/v1/models/{id}", self._model_routes
        return "unknown", {}

    def _choose(self, scope: Scope, methods: Mapping[str, Handler]) -> Handler:
        method = scope["method"]
        if handler := methods.get("GET" if method == "HEAD" else method):
            return handler
        if methods:
            raise MethodError(f"{scope['path']} does not answer to {method}, but to {', '.join(methods)}", [*methods])
        raise UnknownRouteError(f"there is nothing at {scope['path']}: /docs lists what there is")

    def _refuse(self, error: FletcherError, request_id: bytes) -> Response:
        status = status_of(error).http
        self._engine.metrics.failed(error)
        fields = {"request_id": request_id.decode(), "status": status, "error": type(error).__name__}
        if status >= 500:
            logger.error("request failed", extra={"fields": fields | {"reason": str(error)}})
        else:
            logger.info("request refused", extra={"fields": fields})
        headers: list[tuple[bytes, bytes]] = []
        if (seconds := retry_after(error)) is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(seconds)))
        if isinstance(error, MethodError):
            headers.append((b"allow", ", ".join(error.allowed).encode()))
        return Response(status, openai_api.encode_error(error), headers=tuple(headers))

    async def _embeddings(self, scope: Scope, receive: Receive) -> Response:
        request = openai_api.decode_request(await self._body(scope, receive))
        self._model.check_name(request.model)
        options = request.options
        inputs = openai_api.read_inputs(request)
        if self._bridge is None:
            self._bridge = Bridge(asyncio.get_running_loop())
        values = (
            inputs.texts
            if inputs.ids is None
            else await self._encodings(inputs.ids, request.input_type, request.overflow)
        )
        future = self._engine.submit(values or [], options)
        embeddings = await self._bridge.wait(future, receive)
        parts: list[bytes] = []
        for part in openai_api.encode_embeddings(embeddings, self._model.name, request.encoding_format):
            if parts:
                await asyncio.sleep(0)  # a long answer lets others in between its pieces
            parts.append(part)
        return Response(200, parts[0] if len(parts) == 1 else b"".join(parts))

    async def _ingest(self, scope: Scope, receive: Receive) -> Response:
        body = await self._body(scope, receive)
        trace = self._request_id(scope).decode()
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(None, http_ingest, self.longbow, self._engine, self._model, body, trace)
        return Response(200, answer)

    async def _encodings(self, ids: Sequence[Sequence[int]], input_type: str | None, overflow: str) -> Encodings:
        if input_type not in (None, "raw"):
            raise FieldError(
                f"input_type is {input_type!r}, but token ids get no prompt: leave it out, or send texts", "input_type"
            )
        if overflow != "truncate":
            raise FieldError(
                f"overflow is {overflow!r}, but token ids are only ever truncated at their end: send texts", "overflow"
            )
        if sum(map(len, ids)) <= INLINE_IDS:
            return self._engine.encoder.encodings_from_ids(ids)
        return await asyncio.get_running_loop().run_in_executor(None, self._engine.encoder.encodings_from_ids, ids)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._max_body_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                raise TooLargeError(
                    f"the body has {int(value)} bytes; the limit is {limit}: send it in several requests"
                )
        message = await receive()
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLargeError(f"the body has more than {limit} bytes: send it in several requests")
            if not message.get("more_body"):
                return b"".join([*parts, part]) if parts else part
            parts.append(part)
            message = await receive()

    async def _models(self, scope: Scope, receive: Receive) -> Response:
        return Response(200, msgspec.json.encode(openai_api.list_models(self._model)))

    async def _one_model(self, scope: Scope, receive: Receive) -> Response:
        self._model.check_name(scope["path"].removeprefix("/v1/models/"))
        return Response(200, msgspec.json.encode(openai_api.describe(self._model)))

    async def _health(self, scope: Scope, receive: Receive) -> Response:
        return Response(200, b'{"status":"ok"}')

    async def _ready(self, scope: Scope, receive: Receive) -> Response:
        if self._readiness.settled:
            reason = self._readiness.reason()
        else:
            reason = await asyncio.get_running_loop().run_in_executor(None, self._readiness.reason)
        if reason:
            return Response(503, msgspec.json.encode({"status": "not ready", "reason": reason}))
        state = {"status": "ready", "provider": self._model.provider}
        if (fallback := self._engine.encoder.fallback) is not None:
            state["fallback"] = fallback
        return Response(200, msgspec.json.encode(state))

    async def _metrics(self, scope: Scope, receive: Receive) -> Response:
        return Response(200, self._engine.metrics.exposition(), METRICS_TYPE.encode())

    async def _schema(self, scope: Scope, receive: Receive) -> Response:
        return Response(200, self._openapi)

    async def _docs_page(self, scope: Scope, receive: Receive) -> Response:
        policy = (b"content-security-policy", DOCS_POLICY.encode())
        return Response(200, self._docs, b"text/html; charset=utf-8", (policy,))

    async def _home(self, scope: Scope, receive: Receive) -> Response:
        return Response(307, b"", b"text/plain", ((b"location", b"/docs"),))
