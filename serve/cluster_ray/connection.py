"""`connected`: a connection to a cluster of Ray, and tasks on each of its nodes."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final

from fletcher.runtime.errors import InputError, ServiceError

from .environment import check_ray
from .options import LOCAL
from .placement import Room

__all__ = ["Cluster", "brief", "connected"]

#: Seconds in which the head of a cluster must accept a connection; Ray's own attempt takes a minute.
CONNECT_SECONDS: Final = 3.0

#: Seconds that a task on a node may wait for its start, for example because the node's packages are being prepared.
TASK_SECONDS: Final = 120.0

#: Memory for the objects of a cluster that the command starts, in bytes: results are small.
LOCAL_STORE: Final = 256 << 20


class Cluster:
    """An open connection to a cluster.

    Attributes:
        ray: the module `ray`.
        local: True if the cluster was started by this process and ends with it.
    """

    def __init__(self, ray: Any, *, local: bool) -> None:
        self.ray = ray
        self.local = local

    @property
    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes that are alive, as Ray describes them."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def rooms(self, gpu_memory: Mapping[str, int]) -> list[Room]:
        """Return what each node has.

        Args:
            gpu_memory: bytes of the smallest GPU of a node, by the node's id.
        """
        rooms = []
        for node in self.nodes:
            has = node["Resources"]
            rooms.append(
                Room(
                    node["NodeManagerHostname"],
                    float(has.get("CPU", 0.0)),
                    float(has.get("GPU", 0.0)),
                    int(has.get("memory", 0)),
                    gpu_memory.get(node["NodeID"], 0),
                )
            )
        return rooms

    def on_each_node(self, function: Callable[[bytes], bytes], argument: bytes) -> dict[str, bytes]:
        """Run a function once on each node, and return the results by the nodes' ids.

        Args:
            function: a function of a module, which every node must have.
            argument: its argument.

        Raises:
            InputError: a node does not have the module, or runs another Python.
            ServiceError: a node does not answer.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = self.ray.remote(num_cpus=0, max_retries=1)(function)
        names = {node["NodeID"]: node["NodeManagerHostname"] for node in self.nodes}
        running = {
            node: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(argument)
            for node in names
        }
        return {node: self.result(task, names[node]) for node, task in running.items()}

    def result(self, task: Any, where: str, seconds: float = TASK_SECONDS) -> Any:
        """Wait for a task, and translate its failure.

        Raises:
            InputError: the module of the function is not there.
            ServiceError: the task failed, or did not end in time.
        """
        from ray.exceptions import GetTimeoutError, RayError

        try:
            return self.ray.get(task, timeout=seconds)
        except GetTimeoutError:
            raise ServiceError(f"{where} did not answer within {seconds:g} s: is its Ray overloaded or full?") from None
        except (RayError, ImportError) as error:
            text = str(error)
            if "No module named 'fletcher" in text or "No module named 'msgspec" in text:
                raise InputError(
                    f"{where} has no Fletcher: install this version on every node (pip install 'longbow-fletcher[cluster]')"
                ) from error
            raise ServiceError(f"a task on {where} failed: {brief(error)}") from error


@contextmanager
def connected(address: str, variables: Mapping[str, str], *, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine for the time of the context.

    Args:
        address: `local`, `auto` or HOST:PORT.
        variables: environment variables of all processes that this connection starts.
        cpus: cores of a local cluster. Default: those of this machine.

    Raises:
        MissingPackageError: Ray is not installed.
        InputError: there is no cluster, it asks for another token, or it has another version of Ray or Python.
        ServiceError: the cluster failed inside the context.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" not in os.environ and address != LOCAL and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported, and does not ask the cluster
    ray = check_ray()
    logging.getLogger("ray").setLevel(logging.ERROR)  # the reason of a failure is part of the error that is raised
    if ":" in address:
        _reach(address)
    common = {"runtime_env": {"env_vars": dict(variables)}, "namespace": "fletcher", "logging_level": "error"}
    with _translated(address):
        if address == LOCAL:
            ray.init(
                address=LOCAL,  # without it, Ray joins a cluster that `ray start` or RAY_ADDRESS has left on this machine
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=LOCAL_STORE,
                log_to_driver=False,
                **common,
            )
        else:
            ray.init(address=address, log_to_driver=False, **common)
    from ray.exceptions import RayError

    try:
        with redirect_stdout(
            sys.stderr
        ):  # a thread of Ray prints that workers died, and standard output is the result's
            yield Cluster(ray, local=address == LOCAL)
    except RayError as error:
        raise ServiceError(f"the cluster {address!r} failed: {brief(error)}") from error
    finally:
        ray.shutdown()


def brief(error: BaseException) -> str:
    """Return the lines of an error of Ray that have a reason, without its stack traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-1:] if "Traceback" in str(error) else lines)[:400] or type(error).__name__


def _has_token() -> bool:
    variables = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return any(os.environ.get(name) for name in variables) or (Path.home() / ".ray" / "auth_token").is_file()


def _reach(address: str) -> None:
    """Check that something listens on an address.

    Raises:
        InputError: nothing does, or the address is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise InputError(f"the address of the cluster is {address!r}: use HOST:PORT of its head, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no cluster answers at {address} ({error}): start its head with `ray start --head --port {port}`, or use "
            'address = "local"'
        ) from error


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Translate the errors of Ray's connection.

    Raises:
        InputError: as for `connected`.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        text = " ".join(str(one) for one in chain)
        if "token" in text.lower() and ("auth" in text.lower()):
            reason = "it asks for another token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token"
        elif "ersion mismatch" in text:
            reason = "it runs another version of Ray or Python: " + " ".join(text.split())[:400]
        elif address == "auto" and isinstance(error, ConnectionError):
            reason = "none was found on this machine, and RAY_ADDRESS names none: give its address, or use local"
        else:
            reason = " ".join(text.split())[:400]
        raise InputError(f"the cluster {address!r} cannot be used: {reason}") from error
