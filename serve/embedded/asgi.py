"""`AsgiServer`: an ASGI application that loads its models, for uvicorn, hypercorn, Ray Serve and any other ASGI server.

# app.py: uvicorn app:app
app = AsgiServer([ModelSpec(path="minilm")], ServerOptions(keys="keys.json"))
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from fletcher.runtime.errors import FletcherError

from ..engine.backend import Backend
from ..http.bridge import Receive
from ..http.call import AsgiApp, Scope, Send
from ..http.edge.prefix import below
from ..models.registry import Models
from ..models.spec import ModelSpec
from ..models.version import Loader
from ..observe.memory import add_memory_metrics
from ..observe.record import Consumer
from ..server_options import ServerOptions
from ..surroundings import Surroundings, load_encoder

__all__ = ["AsgiServer"]

logger = logging.getLogger("fletcher.serve")


class AsgiServer:
    """ASGI application over models. It loads them at the start of the lifespan, and answers admitted requests at its end.

    An ASGI server that does not support the lifespan protocol gets the models at the first request; then `close` ends them.
    The ASGI server decides about addresses and processes: `http`, `flight`, `fronts` and `lame_duck_seconds` of the options
    do nothing. Without keys, every client that reaches the ASGI server may embed.
    """

    def __init__(
        self,
        models: Backend | Sequence[ModelSpec],
        options: ServerOptions | None = None,
        *,
        load: Loader = load_encoder,
        consumers: Sequence[Consumer] = (),
    ) -> None:
        """Prepare the application; nothing is loaded.

        Args:
            models: models to load, or one loaded model, which the caller closes.
            options: limits, keys, Longbow, traces.
            load: opens a model.
            consumers: functions that receive the record of every request, in addition to metrics, log and traces.
        """
        self._given = models
        self._options = ServerOptions() if options is None else options
        self._load = load
        self._consumers = consumers
        self._surroundings: Surroundings | None = None
        self._models: Models | None = None
        self._app: AsgiApp | None = None
        self._opening = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the events of the lifespan.

        Raises:
            RuntimeError: the scope is neither `http` nor `lifespan`.
            FletcherError: the models cannot be loaded, and the ASGI server does not support the lifespan protocol.
        """
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._app is None:
            await self.open()
        assert self._app is not None
        await self._app(scope, receive, send)

    async def open(self) -> None:
        """Load the models, if they are not loaded.

        Raises:
            FletcherError: as for `Server`.
        """
        async with self._opening:
            if self._app is None:
                self._app = await asyncio.get_running_loop().run_in_executor(None, self._open)

    async def close(self) -> None:
        """Answer the admitted requests, and close the models. A later request opens them again."""
        async with self._opening:
            self._app = None
            await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _open(self) -> AsgiApp:
        # The ASGI server decides who reaches it, and under which names.
        options = self._options.replace(allow_anonymous=True)
        self._surroundings = surroundings = Surroundings.open(options)
        try:
            self._models = surroundings.open_models(self._given, self._load)
            add_memory_metrics(self._models.metrics, "server")
            app = surroundings.edge.around(surroundings.make_app(self._models, self._consumers))
        except BaseException:
            self._close()
            raise
        return app if self._options.root_path else below(app)  # below the prefix that the ASGI server names

    def _close(self) -> None:
        models, surroundings = self._models, self._surroundings
        self._models = self._surroundings = None
        if models is not None:
            drained = models.stop(self._options.drain_seconds)
            logger.info("stopped", extra={"fields": {"all_answered": drained}})
        if surroundings is not None:
            surroundings.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Load the models at the start of the ASGI server, and close them at its end."""
        while True:
            event = (await receive())["type"]  # lifespan.startup, then lifespan.shutdown
            if event == "lifespan.startup":
                try:
                    await self.open()
                except FletcherError as error:
                    await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
                    return
            else:
                await self.close()
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
