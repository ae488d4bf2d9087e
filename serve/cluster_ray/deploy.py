"""`deploy`: the deployments of a file on a connected cluster, checked before traffic. `remove` ends them."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.errors import InputError, ServiceError
from fletcher.runtime.options.sizes import parse_size

from ..access.addresses import is_loopback
from ..models.spec import ModelSpec
from .connection import Cluster
from .environment import check_haproxy, folder_of
from .measure import Measured, measure_models
from .nodes import NodeReport, Questions, inspect_node, pinned_digests, refuse_differences
from .options import AUTO, Deployment, RayFile
from .placement import Need, gpu_share, refuse_if_none_fits, with_margin
from .scaling import QueueSeconds

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

#: Name and namespace of Ray Serve's controller.
CONTROLLER: Final = ("SERVE_CONTROLLER_ACTOR", "serve")


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
    running = _serve_runs(cluster, file)
    reports = _inspect(cluster, file, running=running)
    digests = pinned_digests(list(reports.values()))
    rooms = cluster.rooms({node: one.gpu_memory for node, one in reports.items()})
    smallest_gpu = min((one.gpu_memory for one in reports.values() if one.gpu_memory), default=0)
    plans: list[tuple[Deployment, Need]] = []
    for one in file.deployments:
        pinned = one.replace(models=tuple(_pinned(spec, one, digests) for spec in one.models))
        gpus_in_cluster = any(room.gpus for room in rooms)
        refuse_if_none_fits(f"the deployment {one.name!r}", _asked(one, gpus_in_cluster=gpus_in_cluster), rooms)
        report.line(f"{one.name}: loading its models once on a node")
        measured = _measure(cluster, pinned)
        need = _need(pinned, measured, smallest_gpu)
        refuse_if_none_fits(f"the deployment {one.name!r}", need, rooms, max(one.min_replicas, 1))
        plans.append((pinned, need))
    _start(cluster, file, plans)
    return [_deployed(cluster, file, one, need) for one, need in plans]


def remove(cluster: Cluster, file: RayFile) -> None:
    """End the deployments of a file, after their open requests. Ray Serve stays if it has other applications.

    Raises:
        ServiceError: they do not end in time.
    """
    from ray import serve

    if not _controller(cluster):
        return
    for one in file.deployments:
        serve.delete(one.name)
    if not serve.status().applications:
        serve.shutdown()


def _controller(cluster: Cluster) -> bool:
    try:
        cluster.ray.get_actor(CONTROLLER[0], namespace=CONTROLLER[1])
    except ValueError:
        return False
    return True


def _serve_runs(cluster: Cluster, file: RayFile) -> bool:
    """Return whether Ray Serve runs in the cluster already.

    Raises:
        InputError: it runs with another proxy, or at another address.
    """
    if not _controller(cluster):
        return False
    from ray.serve._private.api import _get_global_client  # the public status has neither port nor proxy

    client = _get_global_client()
    there = client.get_serve_details().get("http_options") or {}
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


def _has_haproxy(cluster: Cluster) -> bool:
    """Return whether Ray Serve's proxies are HAProxy. Its fallback, a proxy in Python on the head, exists only beside it."""
    names = [actor["name"] for actor in cluster.ray.util.list_named_actors(all_namespaces=True)]
    return any("FALLBACK" in name.upper() for name in names)


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
        ports = [options.port, options.metrics_port, options.stats_port]
        ports += [one.flight_port for one in file.deployments if one.flight_port]
    asked = Questions(tuple(artifacts), tuple(files), tuple(ports), options.host, folder_of(options))
    answers = cluster.on_each_node(inspect_node, msgspec.json.encode(asked))
    reports = {node: msgspec.json.decode(answer, type=NodeReport) for node, answer in answers.items()}
    refuse_differences(list(reports.values()))
    return reports


def _pinned(spec: ModelSpec, deployment: Deployment, digests: Mapping[str, str]) -> ModelSpec:
    """Return a model with the digest that all nodes have, so that nodes that join later have it too, and with its workers."""
    workers = spec.workers
    if workers is None and not deployment.gpus:
        workers = max(int(deployment.cpus), 1)
    return spec.replace(digest=spec.digest or digests.get(spec.path), workers=workers)


def _asked(deployment: Deployment, *, gpus_in_cluster: bool) -> Need:
    """Return what a deployment asks for, before anything is measured."""
    gpus = deployment.gpus
    memory = 0 if deployment.memory is None else parse_size(deployment.memory)
    return Need(deployment.cpus, float(gpus_in_cluster) if gpus == AUTO else float(gpus), memory)


def _measure(cluster: Cluster, deployment: Deployment) -> Measured:
    """Load the models of a deployment on a node, and return what they needed.

    Raises:
        InputError: a model cannot be used.
    """
    gpus = 1.0 if deployment.gpus == AUTO else float(deployment.gpus)
    remote = cluster.ray.remote(num_cpus=0, num_gpus=gpus, max_calls=1, max_retries=1)(measure_models)
    task = remote.remote(msgspec.json.encode(deployment.models))
    seconds = deployment.server.load_seconds
    measured = msgspec.json.decode(cluster.result(task, f"the trial of {deployment.name!r}", seconds), type=Measured)
    if measured.problem:
        raise InputError(f"deployment {deployment.name!r}: {measured.problem}")
    return measured


def _need(deployment: Deployment, measured: Measured, gpu_memory: int) -> Need:
    """Return what a replica needs.

    Raises:
        InputError: a GPU is too small for the models.
    """
    auto = deployment.gpus == AUTO
    gpus = gpu_share(measured.gpu_memory, gpu_memory, deployment.name) if auto else float(deployment.gpus)
    memory = with_margin(measured.memory) if deployment.memory is None else parse_size(deployment.memory)
    return Need(deployment.cpus, gpus, memory, measured.gpu_memory if gpus else 0)


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
        _wait(serve, one.name, max(one.min_replicas, int(one.name not in there)), options.start_seconds)


def _start_proxies(serve: Any, http: dict[str, Any]) -> None:
    """Start Ray Serve. On a busy machine it may take its proxy for dead once, and makes another one.

    Raises:
        RayError: the proxies do not become ready.
    """
    from ray.exceptions import RayActorError

    for attempt in range(STARTS):
        try:
            serve.start(proxy_location="EveryNode", http_options=http)
            return
        except RayActorError:
            if attempt + 1 == STARTS:
                raise


def _has_room(cluster: Cluster, need: Need, count: int) -> bool:
    """Return whether the cluster has free resources for replicas beside those that run."""
    free = cluster.ray.available_resources()
    wanted = {"CPU": need.cpus * count, "GPU": need.gpus * count, "memory": need.memory * count}
    return all(free.get(name, 0.0) >= amount for name, amount in wanted.items())


def _wait(serve: Any, name: str, least: int, seconds: float) -> None:
    """Wait until an application runs with at least so many replicas: one that may have none runs without a trial.

    Raises:
        ServiceError: it failed, or did not become ready in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        state = serve.status().applications.get(name)
        status = "" if state is None else state.status.value
        if state is not None and status == "RUNNING" and _running(state, name) >= least:
            return
        messages = "" if state is None else _reason(state)
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ServiceError(f"the deployment {name!r} failed: {messages}")
        if time.monotonic() > deadline:
            raise ServiceError(f"the deployment {name!r} is not ready after {seconds:g} s ({status}): {messages}")
        time.sleep(0.2)


def _running(state: Any, name: str) -> int:
    """Return the number of replicas of an application that run."""
    return int(state.deployments[name].replica_states.get("RUNNING", 0))


def _reason(state: Any) -> str:
    """Return the last line of the messages of an application, which has the error of the replica."""
    texts = [state.message, *(one.message for one in state.deployments.values())]
    lines = [line.strip() for text in texts for line in text.splitlines() if "Error" in line]
    return lines[-1] if lines else " ".join(" ".join(texts).split())[:400] or "no reason is known"


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
    replicas = _running(serve.status().applications[one.name], one.name)
    prefix = "" if one.path_prefix == "/" else one.path_prefix
    url = f"http://{file.ray.host}:{file.ray.port}{prefix}"
    return Deployed(one.name, url, replicas, need.gpus, need.memory, instances, flight)
