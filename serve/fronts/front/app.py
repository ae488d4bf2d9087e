"""`FrontApp`: the ASGI application of a front: it answers hot routes itself and forwards all others to the engine process."""

from __future__ import annotations

from ...http.bridge import Receive
from ...http.call import AsgiApp, Scope, Send
from ...http.route import RouteTable
from ...http.routes import computing_routes

__all__ = ["FrontApp", "hot_routes"]


def hot_routes() -> RouteTable:
    """Return the routes that a front answers: they take texts and give vectors, scores or tokens."""
    return RouteTable(route for route in computing_routes() if route.method == "POST")


class FrontApp:
    """Hot routes here, all others by `forward`."""

    def __init__(self, app: AsgiApp, forward: AsgiApp) -> None:
        """Join the applications.

        Args:
            app: answers hot routes.
            forward: answers everything else.
        """
        self._app = app
        self._forward = forward
        self._hot = hot_routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not (scope["method"] == "POST" and self._hot.find(scope["path"])[1]):
            await self._forward(scope, receive, send)
        else:
            await self._app(scope, receive, send)
