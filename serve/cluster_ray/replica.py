"""`Replica`: the class that Ray Serve runs: Fletcher's models and application in one process."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import ServiceError

from ..access.addresses import HostPort, bind, is_loopback
from ..http.call import AsgiApp
from ..http.edge.prefix import below
from ..listening import private_folder
from ..models.heap import few_arenas
from ..models.registry import Models
from ..models.spec import ModelSpec
from ..models.version import Loader
from ..observe import logs
from ..observe.memory import add_memory_metrics
from ..surroundings import Surroundings, load_encoder
from .front import served
from .options import Deployment
from .scaling import BUSY, OPEN, QUEUE

if TYPE_CHECKING:
    from ..observe.tracing import Tracing

__all__ = ["Replica"]


class Replica:
    """A replica: it loads models, answers, says whether it is healthy, and reports its queue.

    Ray Serve calls the constructor, `reconfigure` with the models, and `check_health`; then it lets requests in. The methods
    are coroutines, because Ray Serve's event loop also answers the requests.
    """

    def __init__(self, deployment: str, host: str, node: str = "", *, load: Loader = load_encoder) -> None:
        """Open everything besides the models.

        Args:
            deployment: the `Deployment` as JSON.
            host: address that replicas listen on.
            node: address of this node for other machines. Default: Ray's address of the node, if others can reach `host`.
            load: opens a model.
        """
        few_arenas()
        self._deployment = decode_json(deployment, Deployment)
        self._host = host
        self._node = node
        options = self._deployment.server
        logs.install(options.log_level.upper())
        # `RayFile.check` has decided who may call without a key.
        self._surroundings = Surroundings.open(options.replace(allow_anonymous=True), _tracing(self._deployment))
        self._models = self._surroundings.make_models(load)
        add_memory_metrics(self._models.metrics, "server")
        self._flight: Any = None
        self._registration: Any = None
        self._closing = False
        self._measured = time.monotonic(), 0.0

    @property
    def models(self) -> Models:
        """The models."""
        return self._models

    def __serve_build_asgi_app__(self) -> AsgiApp:
        """Return the application, which Ray Serve calls after the constructor."""
        app = self._surroundings.edge.around(self._surroundings.make_app(self._models))
        return served(below(app), self.close)  # Ray Serve names the prefix in the scope

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve exactly these models. New versions are loaded and checked before old ones end, and no request fails.

        Args:
            config: `models`, the specifications as plain objects.

        Raises:
            FletcherError: a model cannot be loaded; the models stay as they are.
        """
        specs = msgspec.convert(config["models"], list[ModelSpec])
        await asyncio.get_running_loop().run_in_executor(None, self._apply, specs)

    def _apply(self, specs: list[ModelSpec]) -> None:
        self._models.apply(specs)
        if self._deployment.flight_port is not None and self._flight is None:
            self._open_flight(self._deployment.flight_port)

    def _open_flight(self, port: int) -> None:
        """Listen for Flight, and register the address. Replicas of a node share a port that is given."""
        from ..flight.relayed import RelayedFlight
        from .flight import ClusterFlight, Registration, open_book

        make = partial(self._surroundings.make_flight, ClusterFlight, self._models)
        if port:
            listener = bind(HostPort(self._host, port), "flight", shared=True)
            self._flight = RelayedFlight(make, listener, private_folder(), None)
            flight = self._flight.server
        else:
            self._flight = flight = make(HostPort(self._host, 0))
            port = flight.port
        own = self._host if is_loopback(self._host) else self._node or _node_address()
        flight.advertised = f"grpc://{HostPort(own, port)}"
        self._registration = flight.registration = Registration(open_book, self._deployment.name, flight.advertised)

    async def check_health(self) -> None:
        """Raise an error if the canary fails, batches fail or hang, or an artifact was changed, so that Ray replaces it.

        Raises:
            ServiceError: the replica must not answer; the message has the reason.
        """
        if self._closing:
            return
        reason = await asyncio.get_running_loop().run_in_executor(None, self._models.not_ready)
        if reason:
            raise ServiceError(reason)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the seconds of the queue, the share of the time since the last call with a batch, and open requests."""
        sample = self._models.metrics.registry.get_sample_value
        now, computed = time.monotonic(), sample("fletcher_batch_duration_seconds_sum") or 0.0
        since, before = self._measured
        self._measured = now, computed
        versions = [version for model in self._models.named for version in model.versions]
        workers = sum(version.info.workers for version in versions if version.engine is not None)
        busy = (computed - before) / max((now - since) * workers, 1e-9)
        return {
            QUEUE: float(sample("fletcher_queue_seconds") or 0.0),
            BUSY: min(max(busy, 0.0), 1.0),
            OPEN: float(self._models.open_requests),
        }

    async def close(self) -> None:
        """Answer the admitted requests, and close the models. Ray Serve ends the process afterwards."""
        if not self._closing:
            self._closing = True
            await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        seconds = self._deployment.server.drain_seconds
        if self._registration is not None:
            self._registration.close()
        self._models.announce_stop()
        self._models.stop(seconds)
        if self._flight is not None:
            self._flight.stop(1.0)
        self._surroundings.close()


def _tracing(deployment: Deployment) -> Tracing | None:
    """Return where spans go. A replica is named by its process: all replicas of a node have the same port, HAProxy's."""
    url = deployment.server.otlp
    if url is None:
        return None
    from ..observe.tracing import Tracing

    return Tracing.to(url, f"{socket.gethostname()}/{deployment.name}/{os.getpid()}")


def _node_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
