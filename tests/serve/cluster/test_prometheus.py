"""A real Prometheus collects every instance of a cluster with the generated configuration."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import httpx
import pytest

from fletcher.serve.cluster.prometheus import prometheus_config
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...deploy.tooling import MONITORING, tool
from ...doubles.s3_server import free_ports
from ..fake_encoder import FakeEncoder
from .balancers import balanced, cluster_of

SECONDS = 60.0


@pytest.mark.slow
def test_one_job_has_all_instances_and_the_balancer(tmp_path: Path) -> None:
    prometheus = tool("prometheus", "Debian: prometheus")
    options = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=5)
    with Server(FakeEncoder(), options) as first, Server(FakeEncoder(), options) as second:
        at = [str(server.addresses.http).removeprefix("http://") for server in (first, second)]
        pools = {"one": (("m",), {"a": (at[0], None)}), "two": (("n",), {"b": (at[1], None)})}
        cluster = cluster_of(pools, stats=True)
        (tmp_path / "key").write_text("none")
        (tmp_path / "rules.yaml").write_bytes((MONITORING / "rules.yaml").read_bytes())
        text = prometheus_config(cluster).replace("/run/secrets/scrape_key", str(tmp_path / "key")).replace("15s", "1s")
        (tmp_path / "prometheus.yml").write_text(text)
        address = f"127.0.0.1:{free_ports(1)[0]}"
        words = [prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        with balanced("haproxy", cluster, tmp_path), (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([*words, f"--web.listen-address={address}"], stdout=log, stderr=log)
            try:
                expected = {
                    ("fletcher", at[0], "one"),
                    ("fletcher", at[1], "two"),
                    ("balancer", cluster.balancer.stats, ""),
                }
                end, found = time.monotonic() + SECONDS, set[tuple[str, str, str]]()
                while found != expected:
                    assert time.monotonic() < end, (found, (tmp_path / "log").read_text())
                    time.sleep(0.2)
                    found = scraped(address)
            finally:
                process.kill()
                process.wait(30)


def scraped(address: str) -> set[tuple[str, str, str]]:
    """Return job, instance and pool of the targets that Prometheus has read."""
    try:
        answer = httpx.get(f"http://{address}/api/v1/query", params={"query": "up == 1"}).json()
    except httpx.TransportError:
        return set()
    if answer["status"] != "success":
        return set()
    metrics = [each["metric"] for each in answer["data"]["result"]]
    return {(metric["job"], metric["instance"], metric.get("pool", "")) for metric in metrics}
