"""`deploy`: the deployments of a file on a connected cluster, checked before traffic. `remove` ends them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.errors import InputError

from ..access.addresses import is_loopback
from .connection import Cluster
from .environment import check_haproxy, folder_of
from .needs import asked, measure, need_of, pinned
from .nodes import NodeReport, Questions, inspect_node, pinned_digests, refuse_differences
from .options import Deployment, RayFile
from .placement import Need, refuse_if_none_fits
from .scaling import QueueSeconds
from .state import (
    has_controller,
    reserved,
    running_replicas,
    serve_runs,
    wait_for_proxies,
    wait_until_running,
)

__all__ = ["Deployed", "deploy", "deployment_options", "remove"]

#: Requests that a replica may have open: its engine has a queue and limits of its own, and Ray Serve's limit is 5.
MOST_OPEN: Final = 100_000

#: Seconds between two checks of a replica, and that one may take: a canary runs in it after a batch has failed.
HEALTH_PERIOD_S: Final = 5.0
HEALTH_TIMEOUT_S: Final = 30.0

#: Starts of a replica that may fail before the deployment counts as failed. Its models were loaded on a node before.
MOST_STARTS: Final = 2

#: Seconds over which the autoscaler averages.
LOOK_BACK_S: Final = 12.0

#: Seconds beyond the drain of a replica until Ray kills it.
STOP_MARGIN_S: Final = 10.0

#: Attempts to start Ray Serve.
STARTS: Final = 3


class Deployed(msgspec.Struct, frozen=True):
    """A deployment that answers.

    Attributes:
        name: name of the deployment.
        url: address of HTTP with the prefix.
        replicas: number of replicas now.
        gpus: share or number of GPUs of a replica.
        memory: memory in bytes that is reserved for a replica; 0 if none is.
        instances: addresses of the replicas themselves, for metrics and status.
        flight: addresses of the replicas' Flight servers.
    """

    name: str
    url: str
    replicas: int
    gpus: float
    memory: int
    instances: tuple[str, ...] = ()
    flight: tuple[str, ...] = ()


def deploy(cluster: Cluster, file: RayFile, report: Reporter) -> list[Deployed]:
    """Check the nodes and the models, and start or change the deployments. Deployments that the file lacks stay.

    Raises:
        InputError: a node, a model or a port cannot be used.
        ServiceError: the replicas do not become ready.
    """
    check_haproxy()
    running = serve_runs(cluster, file)
    reports = _inspect(cluster, file, running=running)
    digests = pinned_digests(list(reports.values()))
    rooms = cluster.rooms({node: one.gpu_memory for node, one in reports.items()})
    smallest_gpu = min((one.gpu_memory for one in reports.values() if one.gpu_memory), default=0)
    before = reserved() if running else {}
    plans: list[tuple[Deployment, Need]] = []
    for one in file.deployments:
        fixed = one.replace(models=tuple(pinned(spec, one, digests) for spec in one.models))
        gpus_in_cluster = any(room.gpus for room in rooms)
        refuse_if_none_fits(f"the deployment {one.name!r}", asked(one, gpus_in_cluster=gpus_in_cluster), rooms)
        report.line(f"{one.name}: loading its models once on a node")
        measured = measure(cluster, fixed)
        need = need_of(fixed, measured, smallest_gpu, before.get(one.name))
        refuse_if_none_fits(f"the deployment {one.name!r}", need, rooms, max(one.min_replicas, 1))
        plans.append((fixed, need))
    _start(cluster, file, plans)
    return [_deployed(cluster, file, one, need) for one, need in plans]


def remove(cluster: Cluster, file: RayFile) -> None:
    """End the deployments of a file, after their open requests. Ray Serve stays if it has other applications.

    Raises:
        ServiceError: they do not end in time.
    """
    from ray import serve

    if not has_controller(cluster):
        return
    for one in file.deployments:
        serve.delete(one.name)
    if not serve.status().applications:
        serve.shutdown()


def _inspect(cluster: Cluster, file: RayFile, *, running: bool) -> dict[str, NodeReport]:
    """Return the report of each node.

    Raises:
        InputError: a node cannot be used, or nodes differ.
    """
    options = file.ray
    if len(cluster.nodes) > 1 and is_loopback(options.host):
        raise InputError(
            f"the cluster has {len(cluster.nodes)} nodes, and HAProxy of one node calls replicas of others: set host to "
            '"0.0.0.0" in [ray], and close the ports of the replicas to other networks'
        )
    artifacts, files = [], []
    for one in file.deployments:
        artifacts += [(spec.path, spec.digest) for spec in one.models]
        server = one.server
        given = (server.keys, server.jwt, server.limit_store_file, server.longbow_token_file, server.longbow_ca)
        files += [path for path in given if path is not None]
    ports: list[int] = []
    if not running:
        ports = [options.port, options.metrics_port, options.stats_port, options.fallback_port]
        ports += [one.flight_port for one in file.deployments if one.flight_port]
    questions = Questions(tuple(artifacts), tuple(files), tuple(ports), options.host, folder_of(options))
    answers = cluster.on_each_node(inspect_node, msgspec.json.encode(questions))
    reports = {node: decode_json(answer, NodeReport) for node, answer in answers.items()}
    refuse_differences(list(reports.values()))
    return reports


def deployment_options(
    deployment: Deployment, need: Need, leave_seconds: float, *, surge: bool, fresh: bool
) -> dict[str, Any]:
    """Return the options of Ray Serve's deployment.

    Args:
        deployment: the deployment.
        need: what a replica needs.
        leave_seconds: seconds for which a replica that leaves still answers.
        surge: whether the cluster has room for new replicas beside the old ones.
        fresh: whether the deployment does not exist yet; then one replica starts even if none is needed, so that the
            deployment fails at once if it cannot start.
    """
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    actor = {"num_cpus": need.cpus, "num_gpus": need.gpus, "memory": need.memory}
    options: dict[str, Any] = {
        "name": deployment.name,
        "ray_actor_options": {name: value for name, value in actor.items() if value},
        "user_config": {"models": msgspec.to_builtins(deployment.models)},
        "max_ongoing_requests": MOST_OPEN,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": leave_seconds + deployment.server.drain_seconds + STOP_MARGIN_S,
        "max_constructor_retry_count": MOST_STARTS,
        "max_surge_percent": 100 if surge else 0,
    }
    least, most = deployment.min_replicas, deployment.max_replicas
    if least == most:
        return options | {"num_replicas": least}
    scaling = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        initial_replicas=max(least, 1) if fresh else None,
        upscale_delay_s=deployment.up_seconds,
        downscale_delay_s=deployment.down_seconds,
        downscale_to_zero_delay_s=deployment.zero_seconds,
        look_back_period_s=LOOK_BACK_S,
        policy=AutoscalingPolicy(
            policy_function=f"{QueueSeconds.__module__}:{QueueSeconds.__qualname__}",
            policy_kwargs={"target": deployment.target_queue_seconds},
        ),
    )
    return options | {"autoscaling_config": scaling}


def version_of(deployment: Deployment, need: Need) -> str:
    """Return the version of the replicas. Those of another version are replaced; other models are exchanged inside them."""
    fixed = (deployment.server, deployment.flight, deployment.path_prefix, need.cpus, need.gpus)
    return hashlib.sha256(msgspec.json.encode(fixed)).hexdigest()[:16]


def _start(cluster: Cluster, file: RayFile, plans: Sequence[tuple[Deployment, Need]]) -> None:
    """Start Ray Serve, and deploy.

    Raises:
        ServiceError: replicas do not become ready.
    """
    from ray import serve
    from ray.serve.api import RunTarget

    from .replica import Replica

    logging.getLogger("ray.serve").setLevel(logging.ERROR)

    options = file.ray
    _start_proxies(serve, {"host": options.host, "port": options.port})
    there = serve.status().applications
    targets = []
    for one, need in plans:
        settings = deployment_options(
            one,
            need,
            options.leave_seconds,
            surge=_has_room(cluster, need, max(one.min_replicas, 1)),
            fresh=one.name not in there,
        )
        kind = serve.deployment(**settings)(serve.ingress()(Replica))
        # Without a version of its own, each deployment of Ray Serve's imperative interface replaces every replica.
        kind = kind.options(version=version_of(one, need), _internal=True)
        fixed = msgspec.json.encode(one.replace(models=())).decode()
        targets.append(RunTarget(kind.bind(fixed, options.host), one.name, one.path_prefix))
    serve.run_many(targets, wait_for_ingress_deployment_creation=True, wait_for_applications_running=False)
    for one, _ in plans:
        wait_until_running(serve, one.name, max(one.min_replicas, int(one.name not in there)), options.start_seconds)
    wait_for_proxies(cluster, options)


def _start_proxies(serve: Any, address: dict[str, Any]) -> None:
    """Start Ray Serve. On a busy machine it may take its proxy for dead once, and makes another one.

    Raises:
        RayError: the proxies do not become ready.
    """
    from ray.exceptions import RayActorError

    for attempt in range(STARTS):
        try:
            serve.start(proxy_location="EveryNode", http_options=address)
            return
        except RayActorError:
            if attempt + 1 == STARTS:
                raise


def _has_room(cluster: Cluster, need: Need, count: int) -> bool:
    """Return whether the cluster has free resources for replicas beside those that run."""
    free = cluster.ray.available_resources()
    wanted = {"CPU": need.cpus * count, "GPU": need.gpus * count, "memory": need.memory * count}
    return all(free.get(name, 0.0) >= amount for name, amount in wanted.items())


def _deployed(cluster: Cluster, file: RayFile, one: Deployment, need: Need) -> Deployed:
    """Return the addresses of a deployment that runs."""
    from ray import serve
    from ray.serve._private.api import _get_global_client  # the public status has no addresses of replicas

    groups = cluster.ray.get(_get_global_client()._controller.get_target_groups.remote(from_proxy_manager=True))
    own = [group for group in groups if group.app_name == one.name and group.protocol.value == "HTTP"]
    host = file.ray.host if is_loopback(file.ray.host) else None
    instances = tuple(f"http://{host or target.ip}:{target.port}" for group in own for target in group.targets)
    flight: tuple[str, ...] = ()
    if one.flight_port is not None:
        from .flight import open_book

        flight = tuple(cluster.ray.get(open_book().addresses.remote(one.name)))
    replicas = running_replicas(serve.status().applications[one.name], one.name)
    prefix = "" if one.path_prefix == "/" else one.path_prefix
    url = f"http://{file.ray.host}:{file.ray.port}{prefix}"
    return Deployed(one.name, url, replicas, need.gpus, need.memory, instances, flight)
