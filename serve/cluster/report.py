"""`ClusterState`: the states of all instances, with what is wrong among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from fletcher.runtime.commandline.reporter import Table

from .config import Cluster
from .state import InstanceState

__all__ = ["ClusterState", "compare_instances", "table_of"]


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a cluster.

    Attributes:
        instances: the instances, in the order of `cluster.toml`.
        faults: instances that do not answer, and models that a pool names and an instance does not have.
        spaces: models that two instances serve with vectors of different spaces.
        artifacts: models that two instances serve from different artifacts of one space.
        unread: endpoints of instances that were not read, with the reason.
    """

    instances: tuple[InstanceState, ...]
    faults: tuple[str, ...]
    spaces: tuple[str, ...]
    artifacts: tuple[str, ...]
    unread: tuple[str, ...]


def compare_instances(cluster: Cluster, instances: Sequence[InstanceState]) -> ClusterState:
    """Return the state of a cluster from the states of its instances."""
    return ClusterState(
        instances=tuple(instances),
        faults=tuple(_faults(cluster, instances)),
        spaces=tuple(_differences(instances, "space", "different spaces: vectors of the two cannot be compared")),
        artifacts=tuple(_differences(instances, "digest", "different artifacts of one space")),
        unread=tuple(f"{_called(each)}: {path}" for each in instances for path in each.unread),
    )


def _faults(cluster: Cluster, instances: Sequence[InstanceState]) -> Iterator[str]:
    models = {pool.name: pool.models for pool in cluster.pools}
    for each in instances:
        if each.state != "ready":
            yield f"{_called(each)} is {each.state}: {each.reason}"
        names = {name for version in each.versions for name in version.names}
        for model in models[each.pool]:
            if names and model not in names:
                yield f"{_called(each)} does not serve {model!r}, a model of its pool; it serves {', '.join(sorted(names))}"
    for pool in cluster.pools:
        if not any(each.pool == pool.name for each in instances):
            yield f"the pool {pool.name} has no instance"


def _differences(instances: Sequence[InstanceState], what: str, meaning: str) -> Iterator[str]:
    """Yield the models whose answering versions differ between instances in a field."""
    found: dict[str, dict[str, list[str]]] = {}
    spaces: dict[str, set[str]] = {}
    for each in instances:
        for version in each.versions:
            if version.answers:
                value = getattr(version, what)
                found.setdefault(version.model, {}).setdefault(value, []).append(_called(each))
                spaces.setdefault(version.model, set()).add(version.space)
    for model, values in found.items():
        if len(values) > 1 and (what == "space" or len(spaces[model]) == 1):
            yield f"{model} has {meaning}: {'; '.join(f'{value} on {_listed(on)}' for value, on in values.items())}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _called(instance: InstanceState) -> str:
    return f"{instance.pool}/{instance.name}"


def table_of(state: ClusterState) -> Table:
    """Return the instances as a table, a row for each version."""
    columns = (
        "instance",
        "address",
        "state",
        "model",
        "version",
        "space",
        "canary",
        "provider",
        "queue s",
        "GPUs",
        "cache",
    )
    rows: list[list[object]] = []
    for each in state.instances:
        devices = f"{sum(device.in_service for device in each.devices)}/{len(each.devices)}" if each.devices else "-"
        tail = [_number(each.queue_seconds), devices, _share(each.cache_hits)]
        head = [_called(each), each.address, each.state]
        if not each.versions:
            rows.append([*head, "-", "-", "-", "-", "-", *tail])
        for number, version in enumerate(each.versions):
            canary = version.canary if version.ready is not False else f"{version.canary}, failed"
            label = version.version if version.answers else f"({version.version})"
            cells = [version.model, label, version.space, canary, version.provider]
            rows.append([*head, *cells, *tail] if number == 0 else ["", "", "", *cells, "", "", ""])
    return Table(columns, rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
