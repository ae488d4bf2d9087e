"""`below`: ASGI wrapper for an application that clients reach under a prefix of the path, such as `/fletcher`."""

from __future__ import annotations

from ..bridge import Receive
from ..call import AsgiApp, Scope, Send

__all__ = ["below"]


def below(app: AsgiApp, prefix: str = "") -> AsgiApp:
    """Return an application that answers paths with and without the prefix.

    A proxy may remove the prefix before it passes a request on, or may not. An ASGI server names a prefix in the scope
    (`root_path`); then the path has it.

    Args:
        app: the application, whose routes do not have the prefix.
        prefix: prefix without a slash at its end; empty for that of the scope.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (root := prefix or scope.get("root_path", "")):
            path: str = scope["path"]
            if path == root:  # relative addresses need the slash
                headers = [(b"location", root.encode("ascii") + b"/"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 307, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            if path.startswith(root + "/"):
                raw = scope.get("raw_path")
                raw = None if raw is None else raw.removeprefix(root.encode("ascii"))
                scope = {**scope, "path": path.removeprefix(root), "raw_path": raw, "root_path": root}
        await app(scope, receive, send)

    return answer
