"""`prometheus_config`: one job of Prometheus that collects the metrics of all instances and of the balancer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .config import OFF, Cluster
from .yaml import to_yaml

__all__ = ["prometheus_config"]

#: File with the key of Prometheus, written by `fletcher-serve keys add --monitor`.
KEY_FILE: Final = "/run/secrets/scrape_key"


def prometheus_config(cluster: Cluster) -> str:
    """Return the text of the configuration, in YAML. Instances have the labels `pool` and `instance`."""
    job: dict[str, Any] = {
        "job_name": "fletcher",
        "metrics_path": "/metrics",
        "authorization": {"type": "Bearer", "credentials_file": KEY_FILE},
    }
    if cluster.tls.instance_ca is not None:
        job["scheme"] = "https"
        job["tls_config"] = {"ca_file": cluster.tls.instance_ca, "server_name": cluster.tls.instance_name}
    static = [_static(pool.name, [each.http for each in pool.instances]) for pool in cluster.pools if pool.instances]
    names = [{"names": [pool.dns], "type": "A", "port": pool.http_port} for pool in cluster.pools if pool.dns]
    if static:
        job["static_configs"] = static
    if names:
        job["dns_sd_configs"] = names
        job["relabel_configs"] = [*_pools_of_names(cluster)]
    jobs = [job]
    if cluster.balancer.stats != OFF:
        # HAProxy has its metrics there, and Envoy below /stats/prometheus.
        jobs.append({"job_name": "balancer", "static_configs": [{"targets": [cluster.balancer.stats]}]})
    config: dict[str, Any] = {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
    }
    return "# Written by `fletcher-serve cluster config` from cluster.toml: change that file.\n" + to_yaml(config)


def _static(pool: str, targets: list[str]) -> dict[str, Any]:
    return {"targets": targets, "labels": {"pool": pool}}


def _pools_of_names(cluster: Cluster) -> Iterator[dict[str, Any]]:
    for pool in cluster.pools:
        if pool.dns:
            yield {
                "source_labels": ["__meta_dns_name"],
                "regex": pool.dns.replace(".", r"\."),
                "target_label": "pool",
                "replacement": pool.name,
            }
