"""Needs of a deployment's replicas: what its options ask for, and what its models needed in a trial on a node."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.sizes import parse_size

from ..models.spec import ModelSpec
from .connection import Cluster
from .measure import Measured, measure_models
from .options import AUTO, Deployment
from .placement import Need, gpu_share, with_margin

__all__ = ["asked", "measure", "need_of", "pinned"]


def pinned(spec: ModelSpec, deployment: Deployment, digests: Mapping[str, str]) -> ModelSpec:
    """Return a model with the digest that all nodes have, so that nodes that join later have it too, and with its workers."""
    workers = spec.workers
    if workers is None and not deployment.gpus:
        workers = max(int(deployment.cpus), 1)
    return spec.replace(digest=spec.digest or digests.get(spec.path), workers=workers)


def asked(deployment: Deployment, *, gpus_in_cluster: bool) -> Need:
    """Return what a deployment asks for, before anything is measured."""
    gpus = deployment.gpus
    memory = 0 if deployment.memory is None else parse_size(deployment.memory)
    return Need(deployment.cpus, float(gpus_in_cluster) if gpus == AUTO else float(gpus), memory)


def measure(cluster: Cluster, deployment: Deployment) -> Measured:
    """Load the models of a deployment on a node, and return what they needed.

    Raises:
        InputError: a model cannot be used, or no GPU is free for the trial.
    """
    gpus = 1.0 if deployment.gpus == AUTO else float(deployment.gpus)
    if cluster.ray.available_resources().get("GPU", 0.0) < gpus:
        raise InputError(
            f"deployment {deployment.name!r}: its models are loaded on {gpus:g} GPUs once before traffic, and so much is not "
            "free now: leave it free, lower max_replicas first, or give gpus as a number"
        )
    remote = cluster.ray.remote(num_cpus=0, num_gpus=gpus, max_calls=1, max_retries=1)(measure_models)
    task = remote.remote(msgspec.json.encode(deployment.models))
    seconds = deployment.server.load_seconds
    measured = decode_json(cluster.result(task, f"the trial of {deployment.name!r}", seconds), Measured)
    if measured.problem:
        raise InputError(f"deployment {deployment.name!r}: {measured.problem}")
    return measured


def need_of(
    deployment: Deployment, measured: Measured, gpu_memory: int, reserved: tuple[float, int] | None = None
) -> Need:
    """Return what a replica needs.

    Two measurements differ a little, and Ray Serve replaces every replica whose reservation changes. So a reservation that
    still fits stays.

    Args:
        deployment: the deployment.
        measured: memory of its models.
        gpu_memory: bytes of the smallest GPU.
        reserved: share of a GPU and memory of its replicas that run; None if there are none.

    Raises:
        InputError: a GPU is too small for the models.
    """
    before, memory_before = (0.0, 0) if reserved is None else reserved
    gpus = float(deployment.gpus) if deployment.gpus != AUTO else 0.0
    if deployment.gpus == AUTO:
        share = gpu_share(measured.gpu_memory, gpu_memory, deployment.name)
        gpus = before if share <= before < 1.5 * share else share
    if deployment.memory is not None:
        memory = parse_size(deployment.memory)
    elif measured.memory <= memory_before < 2 * with_margin(measured.memory):
        memory = memory_before
    else:
        memory = with_margin(measured.memory)
    return Need(deployment.cpus, gpus, memory, measured.gpu_memory if gpus else 0)
