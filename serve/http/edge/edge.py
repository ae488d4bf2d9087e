"""`Edge`: the wrappers that a server's options put around its application."""

from __future__ import annotations

from dataclasses import dataclass

from ...access.proxies import TrustedProxies
from ..call import AsgiApp
from .cors import allowing_origins
from .forwarded import forwarded
from .prefix import below

__all__ = ["Edge"]


@dataclass(frozen=True, slots=True)
class Edge:
    """Wrappers for the options about proxies and websites. The process that accepts a connection has them.

    Attributes:
        root_path: prefix of the paths under which clients reach the server; empty without one.
        origins: origins of the websites whose pages may read answers.
        proxies: networks of trusted proxies.
    """

    root_path: str = ""
    origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()

    def around(self, app: AsgiApp) -> AsgiApp:
        """Return the application with the wrappers that are needed; with none, the application itself.

        Raises:
            InputError: a network is invalid.
        """
        if self.origins:
            app = allowing_origins(app, self.origins)
        if self.root_path:
            app = below(app, self.root_path)
        if self.proxies:
            app = forwarded(app, TrustedProxies(self.proxies))
        return app
