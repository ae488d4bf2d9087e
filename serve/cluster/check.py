"""`check_cluster`: what must hold before a balancer gets requests."""

from __future__ import annotations

from collections.abc import Iterator

from fletcher.runtime.errors import InputError

from ..access.addresses import bind, parse
from .ask import Asker
from .config import OFF, Balancer, Cluster
from .report import compare_instances
from .state import MODELS, places, read_instances

__all__ = ["check_cluster"]


def check_cluster(cluster: Cluster, asker: Asker) -> None:
    """Ask every instance for its models, and try the ports of the balancer on this machine.

    Raises:
        InputError: an instance does not answer or does not serve a model of its pool, two instances serve different artifacts
            under one name, or a port of the balancer is taken; the message names all of them.
    """
    state = compare_instances(cluster, read_instances([*places(cluster)], asker))
    unknown = [each for each in state.unread if MODELS in each]
    problems = [*state.spaces, *state.artifacts, *state.faults, *unknown, *_taken(cluster.balancer)]
    if problems:
        raise InputError("the cluster cannot get requests yet:\n" + "\n".join(f"  {each}" for each in problems))


def _taken(balancer: Balancer) -> Iterator[str]:
    for key in ("http", "flight", "stats"):
        address = getattr(balancer, key)
        if address == OFF:
            continue
        try:
            bind(parse(address, key), f"balancer.{key}").close()
        except InputError as error:
            yield str(error)
