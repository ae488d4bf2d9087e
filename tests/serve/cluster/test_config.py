"""`cluster.toml`: errors name the key, and the configurations are those that the programs accept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fletcher.runtime.errors import InputError
from fletcher.serve.cluster.config import Cluster, Pool, Tls, read_cluster
from fletcher.serve.cluster.envoy import envoy_config
from fletcher.serve.cluster.prometheus import prometheus_config
from fletcher.serve.cluster.yaml import to_yaml

from ...deploy.tooling import DEPLOY, ran, tool
from .balancers import BALANCERS, check, cluster_of

POOL = """
[[pools]]
name = "small"
models = ["minilm"]
"""

INSTANCE = """
[[pools.instances]]
name = "a"
http = "10.0.0.1:8080"
"""

SECOND = INSTANCE.replace('"a"', '"b"').replace("10.0.0.1", "10.0.0.2")


def problem(text: str, folder: Path) -> str:
    file = folder / "cluster.toml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_cluster(file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "missing required field `pools`"),
        ("pools = []", "$.pools"),
        ("[[pool]]", "unknown field `pool`; the keys are pools, balancer, tls, ray"),
        (POOL, "the pool 'small' has no instance"),
        (POOL + "instnces = []", "unknown field `instnces` - at `$.pools[0]`; the keys are name, models"),
        (POOL + INSTANCE + 'flihgt = "10.0.0.1:1"', "unknown field `flihgt` - at `$.pools[0].instances[0]`"),
        (POOL + 'dns = "fletcher"' + INSTANCE, "has both instances and dns"),
        (POOL + 'dns = "fletcher:8080"', "without a port"),
        (POOL + INSTANCE + INSTANCE, "two instances of the pool 'small' have the name 'a'"),
        (POOL + INSTANCE + SECOND.replace("10.0.0.2", "10.0.0.1"), "two instances have '10.0.0.1:8080'"),
        (POOL + INSTANCE + 'flight = "10.0.0.2:8815"', "both must be on one host"),
        (POOL + INSTANCE + SECOND + 'flight = "10.0.0.2:8815"', "with flight and without"),
        (POOL + INSTANCE + POOL + SECOND, "two pools have the name 'small'"),
        (POOL + INSTANCE + POOL.replace('"small"', '"other"') + SECOND, "two pools have the model 'minilm'"),
        (POOL.replace('"minilm"', '"mini lm"') + INSTANCE, "$.pools[0].models[0]"),
        (POOL + INSTANCE.replace(":8080", ""), "must be HOST:PORT"),
        (POOL + INSTANCE.replace(":8080", ":0"), "must be HOST:PORT"),
        (POOL + INSTANCE + "[balancer]\ncheck_secnds = 1", "unknown field `check_secnds` - at `$.balancer`"),
        (POOL + INSTANCE + "[balancer]\ncheck_seconds = 0", "$.balancer.check_seconds"),
        (POOL + INSTANCE + '[balancer]\nhttp = "here"', "http is 'here'"),
        (POOL + INSTANCE + '[balancer]\nhttp = "off"', "http and flight are both off"),
        (POOL + INSTANCE + '[balancer]\nflight = "0.0.0.0:1"', "no pool has Flight"),
        (POOL + INSTANCE + '[balancer]\ndefault_pool = "large"', "default_pool is 'large'"),
        (POOL + INSTANCE + '[tls]\ninstance_ca = "/ca.pem"', "instance_ca and instance_name need each other"),
        (POOL + INSTANCE + '[tls]\ncertificate = "/a b.pem"', "certificate is '/a b.pem'"),
        ("pools = [", "is not a TOML file"),
    ],
)
def test_an_error_names_the_key(text: str, named: str, tmp_path: Path) -> None:
    message = problem(text, tmp_path)
    assert named in message
    assert str(tmp_path / "cluster.toml") in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml cannot be read"):
        read_cluster(tmp_path / "none.toml")


def test_an_instance_answers_until_the_balancer_has_left_it() -> None:
    cluster = cluster_of({"p": (("m",), {"a": ("127.0.0.1:1", None)})}, check_seconds=2.5, falls=3)
    assert cluster.balancer.lame_duck_seconds == 11  # 2.5 s x 3 looks, one more that may begin late, rounded up


WRITERS = {"haproxy.cfg": BALANCERS["haproxy"].write, "envoy.yaml": envoy_config, "prometheus.yml": prometheus_config}


@pytest.mark.parametrize("name", WRITERS)
def test_the_committed_examples_are_those_of_the_command(name: str) -> None:
    folder = DEPLOY / "cluster"
    written = WRITERS[name](read_cluster(folder / "cluster.toml"))
    assert (folder / name).read_text() == written, "run the commands at the head of deploy/cluster/cluster.toml"


def variants() -> dict[str, Cluster]:
    """Return clusters that differ in what the configurations have."""
    two = {"a": ("127.0.0.1:8081", "127.0.0.1:8815"), "b": ("127.0.0.1:8082", "127.0.0.1:8816")}
    small = {"small": (("minilm", "org/minilm:v1+x"), two)}
    names = Pool(name="large", models=("bge",), dns="localhost", flight_port=8815)
    without = Cluster(pools=(names,))
    return {
        "one pool": cluster_of(small, stats=True),
        "no retries": cluster_of(small, retries=0, log_requests=True),
        "Flight alone": cluster_of(small, http="off"),
        "HTTP alone": cluster_of({"small": (("m",), {"a": ("127.0.0.1:1", None)})}),
        "a default": cluster_of(small | {"other": (("x",), {"c": ("127.0.0.1:8083", None)})}, default_pool="other"),
        "a name": Cluster(pools=(*cluster_of(small).pools, names), balancer=cluster_of(small).balancer),
        "a name alone": without,
    }


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize("kind", variants())
def test_the_balancer_accepts_its_configuration(name: str, kind: str, tmp_path: Path) -> None:
    cluster = variants()[kind]
    check(name, BALANCERS[name].write(cluster).replace("maxconn 20000", "maxconn 500"), tmp_path)


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_bytes((DEPLOY / "monitoring" / "rules.yaml").read_bytes())
    for kind, cluster in (each for each in variants().items() if each[0] in ("one pool", "a name", "a name alone")):
        file = tmp_path / "prometheus.yml"
        text = prometheus_config(cluster).replace("/run/secrets/scrape_key", str(tmp_path / "rules.yaml"))
        file.write_text(text)
        result = ran(tool("promtool", "Debian: prometheus"), "check", "config", file)
        assert result.returncode == 0, f"{kind}: {result.stdout}{result.stderr}"


def test_prometheus_scrapes_every_instance_with_its_pool() -> None:
    config = yaml.safe_load(prometheus_config(variants()["a name"]))
    job = config["scrape_configs"][0]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8081", "127.0.0.1:8082"], "labels": {"pool": "small"}}]
    assert job["dns_sd_configs"] == [{"names": ["localhost"], "type": "A", "port": 8080}]
    assert job["relabel_configs"][0]["replacement"] == "large"
    tls = Cluster(pools=variants()["one pool"].pools, tls=Tls(instance_ca="/ca.pem", instance_name="fletcher.internal"))
    job = yaml.safe_load(prometheus_config(tls))["scrape_configs"][0]
    assert (job["scheme"], job["tls_config"]) == ("https", {"ca_file": "/ca.pem", "server_name": "fletcher.internal"})


@pytest.mark.parametrize(
    "data",
    [
        {"a": [1, -2.5, True, None, "text", "", "on", "Yes", "null", "1", "0s", "a: b", "#x", "*", "é\n", "~", "- a"]},
        {"on": {}, "@type": [], "deep": [[1, [2]], {"x": {"y": ["z", {"w": 1}]}}], "a b": {"c": [{}]}},
        ["x"],
        "plain",
    ],
)
def test_yaml_is_read_as_what_was_written(data: object) -> None:
    assert yaml.safe_load(to_yaml(data)) == data  # type: ignore[arg-type]


def test_configurations_have_what_operators_must_set() -> None:
    text = BALANCERS["haproxy"].write(variants()["one pool"])
    head = text.partition("\nglobal")[0]
    for words in ("--lame-duck-seconds 4", "--trusted-proxy", "--max-connections-per-address 500", "1100 open files"):
        assert words in head
