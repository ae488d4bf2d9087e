"""`forwarded`: ASGI wrapper that takes the client's address from the headers of trusted proxies."""

from __future__ import annotations

from ...access.proxies import FORWARDED, X_FORWARDED_FOR, TrustedProxies
from ..bridge import Receive
from ..call import AsgiApp, Scope, Send

__all__ = ["as_loopback", "forwarded"]


def forwarded(app: AsgiApp, proxies: TrustedProxies) -> AsgiApp:
    """Return an application whose requests have the address of the client instead of a proxy's.

    Args:
        app: the application.
        proxies: networks of the proxies whose headers are believed.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            peer = scope.get("client")
            host = peer[0] if peer else None
            if proxies.trusts(host):
                headers = scope["headers"]
                client = proxies.client(
                    host,
                    [value for name, value in headers if name == X_FORWARDED_FOR],
                    [value for name, value in headers if name == FORWARDED],
                )
                if client != host:
                    scope = {**scope, "client": (client, 0)}
        await app(scope, receive, send)

    return answer


def as_loopback(app: AsgiApp) -> AsgiApp:
    """Return an application whose clients on a Unix socket count as those of the loopback.

    The permissions of the socket decide who they are. The application must not be behind a proxy.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope.get("client"):
            scope = {**scope, "client": ("127.0.0.1", 0)}
        await app(scope, receive, send)

    return answer
