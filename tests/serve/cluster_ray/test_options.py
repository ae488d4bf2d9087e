"""The tables [ray] and [[ray.deployments]]: values, misspelt keys, and options that are not safe under Ray Serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.cluster_ray.options import read_ray_file

GOOD = """
[[pools]]                  # of plain instances, which `cluster config` and `cluster status` read
name = "others"

[ray]
address = "head:6379"
host = "0.0.0.0"

[[ray.deployments]]
name = "embedders"
min_replicas = 0
max_replicas = 4
gpus = "auto"
flight = "8815"

[ray.deployments.server]
keys = "keys.json"
queue_seconds = 5.0

[[ray.deployments.models]]
path = "minilm"
precision = "fp16"

[[ray.deployments.models]]
path = "s3://bucket/reranker"
name = "reranker"
"""

SMALL = """
[[ray.deployments]]
name = "one"
{deployment}

[ray.deployments.server]
{server}

[[ray.deployments.models]]
path = "minilm"
{model}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "cluster.toml"
    file.write_text(text)
    return file


def small(folder: Path, deployment: str = "", server: str = "", model: str = "", before: str = "") -> Path:
    return write(folder, before + SMALL.format(deployment=deployment, server=server, model=model))


def test_a_file(tmp_path: Path) -> None:
    file = read_ray_file(write(tmp_path, GOOD))
    (one,) = file.deployments
    assert (file.ray.address, file.ray.port, file.ray.ports) == ("head:6379", 8000, (30000, 31000))
    assert (one.min_replicas, one.max_replicas, one.gpus, one.flight_port) == (0, 4, "auto", 8815)
    assert [spec.path for spec in one.models] == [str(tmp_path / "minilm"), "s3://bucket/reranker"]
    assert (one.models[0].precision, one.models[1].name) == ("fp16", "reranker")
    assert (one.server.keys, one.server.queue_seconds) == (str(tmp_path / "keys.json"), 5.0)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            {"deployment": "min_replica = 2"},
            r"\[ray.deployments\] has no key 'min_replica'; did you mean 'min_replicas'",
        ),
        (
            {"server": "queue_second = 2.0"},
            r"\[ray.deployments.server\] has no key 'queue_second'; did you mean 'queue_seconds'",
        ),
        ({"model": "precison = 'fp16'"}, r"\[ray.deployments.models\] has no key 'precison'; did you mean 'precision'"),
        ({"before": "[ray]\nprot = 1\n"}, r"\[ray\] has no key 'prot'; did you mean 'port'"),
        ({"before": "[rya]\nport = 1\n"}, r"the file has no key 'rya'; did you mean 'ray'"),
        ({"before": "[ray]\nport = 0\n"}, "port"),
        ({"before": "[ray]\nreplica_ports = '31000-30000'\n"}, "replica_ports"),
        ({"deployment": "min_replicas = 3\nmax_replicas = 2"}, "max_replicas is 2, and min_replicas is 3"),
        ({"deployment": "gpus = 1.5"}, "gpus is 1.5"),
        ({"deployment": "gpus = 'all'"}, "gpus is 'all'"),
        ({"deployment": "flight = 'on'"}, "flight is 'on'"),
        ({"deployment": "path_prefix = 'search'"}, "path_prefix is 'search'"),
        ({"server": "http = '0.0.0.0:80'"}, r"server has http, .*\[ray\] has the host"),
        ({"server": "trusted_proxy = ['10.0.0.0/8']"}, "X-Forwarded-For, so the header proves nothing"),
        ({"server": "tls_cert = 'a.pem'\ntls_key = 'b.pem'"}, "HAProxy has no TLS"),
        ({"server": "audit = 'a.log'"}, "each replica would write the same file"),
        ({"server": "fronts = 2"}, "a replica is one process"),
        ({"server": "admin = 'on'"}, "admin needs keys or jwt"),
        ({"server": "admin = '127.0.0.1:9'\nkeys = 'k.json'"}, "no address of its own"),
        ({"server": "limit = ['requests=1/s']"}, "limits go by key"),
        ({"before": "[ray]\nhost = '0.0.0.0'\n"}, "other machines can reach 0.0.0.0:8000.*keys"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, places: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_ray_file(small(tmp_path, **places))


def test_deployments_are_compared(tmp_path: Path) -> None:
    text = SMALL.format(deployment="", server="", model="")
    with pytest.raises(InputError, match="two deployments have the name 'one'"):
        read_ray_file(write(tmp_path, text + text))
    with pytest.raises(InputError, match="two deployments have the path_prefix '/'"):
        read_ray_file(write(tmp_path, text + text.replace('"one"', '"two"')))
    with pytest.raises(InputError, match="same port of flight"):
        one = SMALL.format(deployment='flight = "8815"', server="", model="")
        two = SMALL.format(deployment='flight = "8815"\npath_prefix = "/two"', server="", model="")
        read_ray_file(write(tmp_path, one + two.replace('"one"', '"two"')))
    with pytest.raises(InputError, match="'one': a server needs at least one model"):
        read_ray_file(write(tmp_path, '[[ray.deployments]]\nname = "one"\n'))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_ray_file(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is not a TOML file"):
        read_ray_file(write(tmp_path, "[ray"))
    with pytest.raises(InputError, match=r"has no table \[ray\]"):
        read_ray_file(write(tmp_path, ""))
    with pytest.raises(InputError, match=r"no \[\[ray.deployments\]\]"):
        read_ray_file(write(tmp_path, "[ray]\n"))
