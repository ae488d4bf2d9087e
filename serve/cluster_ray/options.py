"""`RayFile`: the table `[ray]` of a `cluster.toml`, with `[[ray.deployments]]`. A key that does not exist is an error."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from fletcher.runtime.errors import InputError, OptionError
from fletcher.runtime.options.struct import Options
from fletcher.runtime.os_errors import explain
from fletcher.runtime.remote.url import is_url

from ..access.addresses import is_loopback
from ..models.spec import ModelSpec, check_specs, require_given
from ..server_options import OFF, ServerOptions

__all__ = ["LOCAL", "Deployment", "RayFile", "RayOptions", "read_ray_file"]

#: Address that starts a cluster on this machine, which ends with the command.
LOCAL: Final = "local"

#: Share of a GPU that is measured.
AUTO: Final = "auto"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_PREFIX: Final = re.compile(r"/|(?:/[A-Za-z0-9._~-]+)+")
_PORTS: Final = re.compile(r"(\d{1,5})-(\d{1,5})")

#: Options of a server that have no meaning or are not safe under Ray Serve, with the reason.
REFUSED: Final[Mapping[str, str]] = {
    "http": "[ray] has the host and the port",
    "socket_mode": "Ray Serve does not listen on a Unix socket",
    "root_path": "the deployment has a path_prefix",
    "trusted_proxy": "Ray Serve's HAProxy passes on what a client writes into X-Forwarded-For, so the header proves nothing",
    "flight": "the deployment has an option flight",
    "fronts": "a replica is one process: use several replicas",
    "name": "[[ray.deployments.models]] has a name",
    "lame_duck_seconds": "[ray] has leave_seconds",
    "tls_cert": "Ray Serve's HAProxy has no TLS: end it in front of the cluster",
    "tls_key": "Ray Serve's HAProxy has no TLS: end it in front of the cluster",
    "tls_client_ca": "Ray Serve's HAProxy has no TLS: end it in front of the cluster",
    "tls_clients": "Ray Serve's HAProxy has no TLS: end it in front of the cluster",
    "max_connections": "HAProxy has the connections of the clients",
    "max_connections_per_address": "HAProxy has the connections of the clients",
    "audit": "each replica would write the same file: keep an audit log on plain instances (`fletcher-serve run`)",
    "audit_size": "replicas write no audit log",
    "audit_full": "replicas write no audit log",
}


class RayOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Cluster, addresses and ports: the table `[ray]`.

    Raises:
        OptionError: a value has a wrong type or is out of its bounds.
    """

    address: Annotated[
        str,
        Meta(
            description="Address of the cluster, HOST:PORT of its head; auto finds it on this machine or in RAY_ADDRESS, "
            "local starts one on this machine that ends with the command."
        ),
    ] = "auto"
    host: Annotated[
        str,
        Meta(
            description="Address that HAProxy and the replicas listen on. A cluster of several nodes needs 0.0.0.0, because "
            "HAProxy of one node calls replicas of others."
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="Port of HTTP, on every node.")] = 8000
    metrics_port: Annotated[
        int, Meta(ge=1, le=65535, description="Port of HAProxy's metrics. HAProxy opens it on all addresses.")
    ] = 9101
    stats_port: Annotated[
        int, Meta(ge=1, le=65535, description="Port of HAProxy's statistics. HAProxy opens it on all addresses.")
    ] = 8404
    fallback_port: Annotated[
        int,
        Meta(
            ge=1, le=65535, description="Port of the proxy on the head that answers while a deployment has no replica."
        ),
    ] = 8500
    replica_ports: Annotated[
        str, Meta(description="Ports of the replicas, FIRST-LAST. Ray's worker ports must not overlap them.")
    ] = "30000-31000"
    stream_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds that a stream may go on after the number of replicas has changed. HAProxy then ends it.",
        ),
    ] = 600.0
    leave_seconds: Annotated[
        float, Meta(ge=0, description="Seconds for which a replica that leaves still answers new requests.")
    ] = 5.0
    start_seconds: Annotated[
        float, Meta(gt=0, description="Seconds in which the replicas of a deployment must be ready.")
    ] = 600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self.ports
        if not 1024 <= first <= last <= 65535:
            raise OptionError(
                "replica_ports", f"replica_ports is {self.replica_ports!r}: use two ports, as 30000-31000"
            )

    @property
    def ports(self) -> tuple[int, int]:
        """First and last port of the replicas; (0, 0) if the text is not a range."""
        found = _PORTS.fullmatch(self.replica_ports)
        return (0, 0) if found is None else (int(found[1]), int(found[2]))


class Deployment(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Replicas that serve the same models: one of `[[ray.deployments]]`.

    Raises:
        OptionError: a value has a wrong type or is out of its bounds, or an option of the server has no meaning here.
    """

    name: Annotated[str, Meta(description="Name of the deployment in Ray Serve.")]
    models: Annotated[tuple[ModelSpec, ...], Meta(description="Models of every replica.")] = ()
    server: Annotated[ServerOptions, Meta(description="Limits, keys, queue and traces of every replica.")] = (
        ServerOptions()
    )
    path_prefix: Annotated[str, Meta(description="Prefix of the paths of this deployment.")] = "/"
    min_replicas: Annotated[
        int,
        Meta(ge=0, description="Smallest number of replicas; 0 ends the last one after zero_seconds without requests."),
    ] = 1
    max_replicas: Annotated[int, Meta(ge=1, description="Largest number of replicas.")] = 1
    target_queue_seconds: Annotated[
        float, Meta(gt=0, description="Wait in the queue of a replica, in seconds, above which replicas are added.")
    ] = 1.0
    up_seconds: Annotated[
        float, Meta(ge=0, description="Seconds that the queues must be long before replicas are added.")
    ] = 10.0
    down_seconds: Annotated[
        float, Meta(ge=0, description="Seconds that fewer replicas must be enough before one is ended.")
    ] = 300.0
    zero_seconds: Annotated[
        float,
        Meta(ge=0, description="Seconds without requests after which the last replica ends, if min_replicas is 0."),
    ] = 900.0
    cpus: Annotated[
        float, Meta(gt=0, description="Cores of a replica, for Ray's placement and the model's workers.")
    ] = 1.0
    gpus: Annotated[
        float | str,
        Meta(
            description="GPUs of a replica: 0, a share such as 0.25, or a number. auto measures the memory of the models on "
            "a GPU of the cluster and takes the share that holds them."
        ),
    ] = 0.0
    memory: Annotated[
        int | str | None,
        Meta(
            description="Memory of a replica for Ray's placement, such as 2GB. Default: it is measured before the start."
        ),
    ] = None
    flight: Annotated[
        str,
        Meta(
            description="Port of Flight in every replica: off, 0 for a free port, or a port, which the replicas of a node "
            "share."
        ),
    ] = OFF

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _NAME.fullmatch(self.name):
            raise OptionError("name", f"the name of a deployment is {self.name!r}: use letters, digits, _ and -")
        if not _PREFIX.fullmatch(self.path_prefix):
            raise OptionError("path_prefix", f"path_prefix is {self.path_prefix!r}: use / or a path such as /search")
        if self.max_replicas < self.min_replicas:
            raise OptionError(
                "max_replicas",
                f"max_replicas is {self.max_replicas}, and min_replicas is {self.min_replicas}: it is less",
            )
        if isinstance(self.gpus, str) and self.gpus != AUTO:
            raise OptionError("gpus", f"gpus is {self.gpus!r}: use {AUTO}, 0, a share below 1, or a whole number")
        if isinstance(self.gpus, float | int) and (self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus))):
            raise OptionError("gpus", f"gpus is {self.gpus:g}: use 0, a share below 1, or a whole number")
        if self.flight != OFF and not (self.flight.isascii() and self.flight.isdigit() and int(self.flight) < 65536):
            raise OptionError("flight", f"flight is {self.flight!r}: use off, 0 or a port")
        self._check_server()

    def _check_server(self) -> None:
        """Check the options of the server.

        Raises:
            OptionError: one has no meaning or is not safe under Ray Serve.
        """
        usual = ServerOptions()
        for option, why in REFUSED.items():
            if getattr(self.server, option) != getattr(usual, option):
                raise OptionError(option, f"server has {option}, which a replica cannot use: {why}")
        if self.server.admin not in (OFF, "on"):
            raise OptionError(
                "admin", f"admin is {self.server.admin!r}: a replica has off or on, and no address of its own"
            )
        if self.server.admin == "on" and not self.server.identifies:
            raise OptionError(
                "admin",
                "admin needs keys or jwt: behind HAProxy every caller has HAProxy's address, so none is known to be on this "
                "machine",
            )
        if self.server.limit and not self.server.identifies:
            raise OptionError(
                "limit",
                "limit needs keys or jwt: behind HAProxy every caller has HAProxy's address, so limits go by key",
            )

    @property
    def flight_port(self) -> int | None:
        """Port of Flight; None without Flight."""
        return None if self.flight == OFF else int(self.flight)


class RayFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[ray]` of a `cluster.toml`.

    Attributes:
        ray: cluster, addresses and ports.
        deployments: groups of replicas, at least one.
    """

    ray: RayOptions = RayOptions()
    deployments: tuple[Deployment, ...] = ()

    def check(self) -> None:
        """Check what the deployments have in common.

        Raises:
            InputError: there is no deployment, two have one name or prefix, one has no models, or other machines can reach a
                deployment without keys.
        """
        if not self.deployments:
            raise InputError("there is no [[ray.deployments]]: a cluster needs at least one")
        for field in ("name", "path_prefix"):
            values = [getattr(one, field) for one in self.deployments]
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise InputError(f"two deployments have the {field} {twice!r}")
        ports = [one.flight for one in self.deployments if one.flight_port]
        if len(set(ports)) < len(ports):
            raise InputError("two deployments have the same port of flight: their clients would reach either")
        for one in self.deployments:
            try:
                check_specs([spec for spec in one.models if spec.name] or list(one.models))
            except InputError as error:
                raise InputError(f"deployment {one.name!r}: {error}") from None
            if not (one.server.identifies or one.server.allow_anonymous or is_loopback(self.ray.host)):
                raise InputError(
                    f"other machines can reach {self.ray.host}:{self.ray.port}, and the deployment {one.name!r} has no API "
                    "keys: set keys in [ray.deployments.server], or allow_anonymous = true"
                )


#: Tables of a `cluster.toml` that are read elsewhere: the balancer's, of plain instances.
OTHERS: Final = ("balancer", "pools", "tls")


def read_ray_file(path: Path) -> RayFile:
    """Return the table `[ray]` of a TOML file. Relative folders and files are relative to the file.

    Raises:
        InputError: the file cannot be read or is not TOML, or a key or a value cannot be used. The message names it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    _compare(path, "", content, ("ray", *OTHERS))
    table = content.get("ray")
    if not isinstance(table, dict):
        raise InputError(f"{path} has no table [ray], which `cluster serve` needs")
    _refuse_unknown(path, table)
    given = {name: value for name, value in table.items() if name != "deployments"}
    try:
        file = msgspec.convert({"ray": given, "deployments": table.get("deployments", ())}, RayFile)
        file = msgspec.structs.replace(
            file, deployments=tuple(_at(path.parent.resolve(), one) for one in file.deployments)
        )
        file.check()
    except (InputError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: {error}") from None
    return file


def _refuse_unknown(path: Path, ray: Mapping[str, Any]) -> None:
    """Refuse a key that no table has, and name the key that was probably meant.

    Raises:
        InputError: there is one.
    """
    _compare(path, "ray", ray, (*RayOptions.__struct_fields__, "deployments"))
    deployments = ray.get("deployments", ())
    tables: list[tuple[str, Any, type[Options]]] = []
    for one in deployments if isinstance(deployments, list) else ():
        if not isinstance(one, dict):
            continue
        tables += [
            ("ray.deployments", one, Deployment),
            ("ray.deployments.server", one.get("server", {}), ServerOptions),
        ]
        models = one.get("models", ())
        tables += [
            ("ray.deployments.models", model, ModelSpec) for model in (models if isinstance(models, list) else ())
        ]
    for name, table, kind in tables:
        if isinstance(table, dict):
            _compare(path, name, table, kind.__struct_fields__)


def _compare(path: Path, name: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in table:
        if key not in keys:
            close = get_close_matches(key, keys, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its keys are {', '.join(sorted(keys))}"
            raise InputError(f"{path}: {f'[{name}]' if name else 'the file'} has no key {key!r}; {hint}")


def _at(folder: Path, deployment: Deployment) -> Deployment:
    """Return a deployment whose paths do not depend on the working directory of a node."""
    models = tuple(
        spec if is_url(spec.path) else msgspec.structs.replace(spec, path=str(folder / spec.path))
        for spec in map(require_given, deployment.models)
    )
    files = {
        name: str(folder / value)
        for name in ("keys", "jwt", "limit_store_file", "longbow_token_file", "longbow_ca")
        if (value := getattr(deployment.server, name)) is not None
    }
    return deployment.replace(models=models, server=deployment.server.replace(**files))
