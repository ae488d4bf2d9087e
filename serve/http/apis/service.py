"""Routes of the server itself: `/health`, `/ready`, `/metrics` and `/docs`."""

from __future__ import annotations

import asyncio

import msgspec

from ...models.loads import on_thread
from ...observe.metrics import CONTENT_TYPE as METRICS_TYPE
from ..call import Call, Response
from ..docs import DOCS_POLICY, docs_page
from ..route import Doc, Route

__all__ = ["service_routes"]

#: Seconds for which `/ready` waits for a check of a model: a run of its canary, or a look at its files.
CHECK_SECONDS = 5.0


class Health(msgspec.Struct, frozen=True):
    """Answer of `/health`: the status `ok`."""

    status: str


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer of `/ready`: the status `ready` with the provider of the first model, or `not ready` with the reason.

    Attributes:
        canary: weakest origin of the models' canaries: `self-made`, `published` or `verified`.
        fallback: reason why a model runs on another provider than the requested one, if that was allowed and happened.
            It names the models if there are several.
    """

    status: str
    reason: str | msgspec.UnsetType = msgspec.UNSET
    provider: str | msgspec.UnsetType = msgspec.UNSET
    canary: str | msgspec.UnsetType = msgspec.UNSET
    fallback: str | msgspec.UnsetType = msgspec.UNSET


async def health(call: Call) -> Response:
    """Return `ok` while the process runs."""
    return Response(200, b'{"status":"ok"}')


async def ready(call: Call) -> Response:
    """Report whether the canary of every model passed on the session that answers requests."""
    models = call.models
    if models.settled:
        reason = models.not_ready()
    else:
        # A thread of its own, so that a folder that does not answer neither holds a thread of others nor delays a stop.
        check = on_thread(models.not_ready, "fletcher-ready")
        try:
            reason = await asyncio.wait_for(asyncio.wrap_future(check), CHECK_SECONDS)
        except TimeoutError:
            reason = "a check of a model does not end"
    if reason:
        return Response(503, msgspec.json.encode(Ready("not ready", reason=reason)))
    first = models.named[0].answering[0]
    fallback = models.fallback
    state = Ready(
        "ready",
        provider=first.description.provider,
        canary=models.canary,
        fallback=msgspec.UNSET if fallback is None else fallback,
    )
    return Response(200, msgspec.json.encode(state))


async def metrics(call: Call) -> Response:
    """Return the metrics in the text format of Prometheus."""
    counts = call.models.metrics
    if counts.pages is None:
        return Response(200, counts.exposition(), METRICS_TYPE.encode())
    page = await asyncio.get_running_loop().run_in_executor(None, counts.exposition)
    return Response(200, page, METRICS_TYPE.encode())


async def home(call: Call) -> Response:
    """Redirect browsers to the documentation. The address is relative, so that it stays below the prefix of a proxy."""
    return Response(307, b"", b"text/plain", ((b"location", b"docs"),))


def service_routes() -> list[Route]:
    """Return the routes. `/openapi.json` is not among them: the application, which knows all routes, adds it."""
    page = docs_page()

    async def docs(call: Call) -> Response:
        policy = (b"content-security-policy", DOCS_POLICY.encode())
        return Response(200, page, b"text/html; charset=utf-8", (policy,))

    health_doc = Doc("health", "Report that the process runs", None, Health)
    ready_doc = Doc(
        "ready",
        "Report whether the canary of every model passed on the session that answers requests",
        None,
        Ready,
        errors=(503,),
    )
    metrics_doc = Doc(
        "metrics", "Return the metrics for Prometheus", answers={METRICS_TYPE.partition(";")[0]: {"type": "string"}}
    )
    return [
        Route("GET", "/health", health, health_doc, access="open", also=("/healthz", "/livez", "/ping")),
        Route("GET", "/ready", ready, ready_doc, access="open", also=("/readyz",)),
        Route("GET", "/metrics", metrics, metrics_doc, access="metrics"),
        Route("GET", "/docs", docs, access="open"),
        Route("GET", "/", home, access="open"),
    ]
