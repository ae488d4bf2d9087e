"""Server for models over HTTP and Arrow Flight, with one engine per model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedded.asgi import AsgiServer
    from .embedded.async_engine import AsyncEngine
    from .engine.embed_request import EmbedRequest
    from .engine.engine import Engine
    from .http.app import HttpApp
    from .models.spec import ModelSpec
    from .server import Server
    from .server_options import ServerOptions

__all__ = ["AsgiServer", "AsyncEngine", "EmbedRequest", "Engine", "HttpApp", "ModelSpec", "Server", "ServerOptions"]

#: Module of each exported name. It is imported when the name is first used, because the help of a command needs none of them.
_MODULES = {
    "AsgiServer": ".embedded.asgi",
    "AsyncEngine": ".embedded.async_engine",
    "EmbedRequest": ".engine.embed_request",
    "Engine": ".engine.engine",
    "HttpApp": ".http.app",
    "ModelSpec": ".models.spec",
    "Server": ".server",
    "ServerOptions": ".server_options",
}


def __getattr__(name: str) -> Any:
    """Import an exported name at its first use.

    Raises:
        AttributeError: the package does not export the name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value
