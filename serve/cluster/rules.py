"""Rules that the configurations of all balancers share: routes, errors of the balancer itself, and hints for operators."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from ..http.errors import ErrorBody, ErrorDetail
from .config import Cluster

__all__ = ["ERRORS", "NO_GRPC_MODEL", "ONCE", "ONE_INSTANCE", "READY", "STATE", "hints"]

#: Path of an instance that says whether it answers requests.
READY: Final = "/ready"

#: Path that the balancer answers itself: 200 while each pool has an instance.
STATE: Final = "/balancer/ready"

#: Ends of paths that write, below any prefix. A request to them is sent to one instance only. All others compute, and may be
#: computed twice.
ONCE: Final = ("/v1/ingest",)

#: Paths that concern one instance, with everything below. The balancer refuses them: ask the instance.
ONE_INSTANCE: Final = ("/admin", "/metrics")


def _error(message: str, kind: str, param: str | None, code: str) -> str:
    return msgspec.json.encode(
        ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))
    ).decode()


#: Bodies of the balancer's own answers by status, in the form of OpenAI's API.
ERRORS: Final[Mapping[int, str]] = MappingProxyType(
    {
        403: _error(
            "the balancer does not pass this path on, because it concerns one instance: ask the instance",
            "invalid_request_error",
            None,
            "one_instance",
        ),
        404: _error(
            "no pool of the balancer has the model that the header X-Gateway-Model-Name names",
            "invalid_request_error",
            "model",
            "model_not_found",
        ),
        502: _error("the instance closed the connection before it answered", "server_error", None, "bad_gateway"),
        503: _error("no instance of the pool can answer now", "server_error", None, "no_instance"),
        504: _error("the instance did not answer in time", "server_error", None, "gateway_timeout"),
    }
)

#: Message of the gRPC status NOT_FOUND (5) for a Flight call that names no pool's model.
NO_GRPC_MODEL: Final = "no pool of the balancer has the model that x-gateway-model-name names"


def hints(cluster: Cluster) -> list[str]:
    """Return lines for the head of a configuration: what the instances need to fit to it."""
    lines = [
        "Written by `fletcher-serve cluster config` from cluster.toml: change that file.",
        "Options that each instance needs beside its own:",
        f"  --lame-duck-seconds {cluster.balancer.lame_duck_seconds}     it answers until this balancer has seen /ready 503",
        "  --trusted-proxy ADDRESS     address of this balancer: clients keep their own",
        f"  --max-connections-per-address {cluster.balancer.max_connections}     all connections come from this balancer",
    ]
    lines.append(
        f"The balancer needs {2 * cluster.balancer.max_connections + 100} open files (LimitNOFILE, ulimit -n)."
    )
    if cluster.default_pool is None:
        lines.append("A request without a model of a pool in X-Gateway-Model-Name gets 404.")
    else:
        lines.append(f"Requests without a model of a pool in X-Gateway-Model-Name go to {cluster.default_pool.name}.")
    return lines
