"""State of Ray Serve in a cluster: whether it runs and how, and waiting until its replicas and its HAProxy answer."""

from __future__ import annotations

import http.client
import time
from typing import Any, Final

from fletcher.runtime.errors import InputError, ServiceError

from ..access.addresses import is_loopback
from .connection import Cluster
from .options import RayFile, RayOptions

__all__ = [
    "has_controller",
    "reason_of",
    "reserved",
    "running_replicas",
    "serve_runs",
    "wait_for_proxies",
    "wait_until_running",
]

#: Name and namespace of Ray Serve's controller.
CONTROLLER: Final = ("SERVE_CONTROLLER_ACTOR", "serve")


def serve_runs(cluster: Cluster, file: RayFile) -> bool:
    """Return whether Ray Serve runs in the cluster already.

    Raises:
        InputError: it runs with another proxy, or at another address.
    """
    if not has_controller(cluster):
        return False
    there = _details().get("http_options") or {}
    options = file.ray
    if (there.get("host"), there.get("port")) != (options.host, options.port):
        raise InputError(
            f"Ray Serve runs in this cluster at {there.get('host')}:{there.get('port')}, and [ray] has "
            f"{options.host}:{options.port}: Ray Serve has one address in a cluster, so use this one or end Ray Serve first"
        )
    if not _has_haproxy(cluster):
        raise InputError(
            "Ray Serve runs in this cluster with its default proxy in Python, which costs about 7 ms and 6.9 ms of CPU for "
            "each request, where the server alone costs 0.2 ms. End it (`serve shutdown`): this command starts HAProxy"
        )
    return True


def has_controller(cluster: Cluster) -> bool:
    try:
        cluster.ray.get_actor(CONTROLLER[0], namespace=CONTROLLER[1])
    except ValueError:
        return False
    return True


def _has_haproxy(cluster: Cluster) -> bool:
    """Return whether Ray Serve's proxies are HAProxy. Its fallback, a proxy in Python on the head, exists only beside it."""
    names = [actor["name"] for actor in cluster.ray.util.list_named_actors(all_namespaces=True)]
    return any("FALLBACK" in name.upper() for name in names)


def _details() -> dict[str, Any]:
    """Return what Ray Serve says about itself; its public status has neither ports nor options."""
    from ray.serve._private.api import _get_global_client

    details: dict[str, Any] = _get_global_client().get_serve_details()
    return details


def reserved() -> dict[str, tuple[float, int]]:
    """Return the share of a GPU and the memory that are reserved for a replica of each deployment that runs."""
    found = {}
    for application in _details()["applications"].values():
        for name, one in application["deployments"].items():
            options = one["deployment_config"].get("ray_actor_options") or {}
            found[name] = float(options.get("num_gpus") or 0.0), int(options.get("memory") or 0)
    return found


def wait_until_running(serve: Any, name: str, least: int, seconds: float) -> None:
    """Wait until an application runs with at least so many replicas: one that may have none runs without a trial.

    Raises:
        ServiceError: it failed, or did not become ready in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        state = serve.status().applications.get(name)
        status = "" if state is None else state.status.value
        if state is not None and status == "RUNNING" and running_replicas(state, name) >= least:
            return
        messages = "" if state is None else reason_of(state)
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ServiceError(f"the deployment {name!r} failed: {messages}")
        if time.monotonic() > deadline:
            raise ServiceError(f"the deployment {name!r} is not ready after {seconds:g} s ({status}): {messages}")
        time.sleep(0.2)


def wait_for_proxies(cluster: Cluster, options: RayOptions) -> None:
    """Wait until HAProxy answers on every node. For Ray Serve an application runs before HAProxy has its first replicas.

    Raises:
        ServiceError: one does not answer in time.
    """
    deadline = time.monotonic() + options.start_seconds
    hosts = [node["NodeManagerAddress"] for node in cluster.nodes]
    for host in ["127.0.0.1"] if is_loopback(options.host) else hosts:
        while not _answers(host, options.port):
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"HAProxy does not answer at {host}:{options.port} after {options.start_seconds:g} s"
                )
            time.sleep(0.2)


def _answers(host: str, port: int) -> bool:
    """Return whether HAProxy has a replica behind it."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/-/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def running_replicas(state: Any, name: str) -> int:
    """Return the number of replicas of an application that run."""
    return int(state.deployments[name].replica_states.get("RUNNING", 0))


def reason_of(state: Any) -> str:
    """Return the last line of the messages of an application, which has the error of the replica."""
    texts = [state.message, *(one.message for one in state.deployments.values())]
    lines = [line.strip() for text in texts for line in text.splitlines() if "Error" in line]
    return lines[-1] if lines else " ".join(" ".join(texts).split())[:400] or "no reason is known"
