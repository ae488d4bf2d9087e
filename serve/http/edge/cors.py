"""`allowing_origins`: ASGI wrapper that lets pages of websites read answers (CORS, https://fetch.spec.whatwg.org).

It never allows the admin API, and it never allows credentials of the browser: keys travel in a header that a page sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..bridge import Receive
from ..call import AsgiApp, Scope, Send

__all__ = ["ADMIN_PATHS", "ANY_ORIGIN", "allowing_origins"]

#: Origin that stands for all origins.
ANY_ORIGIN: Final = "*"

#: Beginning of the paths of the admin API.
ADMIN_PATHS: Final = "/admin/"

#: Seconds for which a browser remembers a permission.
MAX_AGE: Final = b"600"


def allowing_origins(app: AsgiApp, origins: Sequence[str]) -> AsgiApp:
    """Return an application whose answers pages of these origins may read.

    Args:
        app: the application.
        origins: origins such as `https://example.org`, or `*` for all.
    """
    every = ANY_ORIGIN in origins
    allowed = frozenset(origin.lower().encode("ascii") for origin in origins)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(ADMIN_PATHS):
            await app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or not (every or origin.lower() in allowed):
            await app(scope, receive, send)
            return
        permission = [(b"access-control-allow-origin", b"*" if every else origin)]
        if not every:
            permission.append((b"vary", b"origin"))
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await send({"type": "http.response.start", "status": 204, "headers": permission + _preflight(headers)})
            await send({"type": "http.response.body", "body": b""})
            return
        permission.append((b"access-control-expose-headers", b"*"))

        async def send_with_permission(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *permission]}
            await send(message)

        await app(scope, receive, send_with_permission)

    return answer


def _preflight(headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers of the answer to a browser that asks before it sends a request."""
    answer = [(b"access-control-allow-methods", b"GET, HEAD, POST"), (b"access-control-max-age", MAX_AGE)]
    if (names := headers.get(b"access-control-request-headers")) is not None:
        answer.append((b"access-control-allow-headers", names))
    if headers.get(b"access-control-request-private-network") == b"true":  # a public page asks a private address
        answer.append((b"access-control-allow-private-network", b"true"))
    return answer
