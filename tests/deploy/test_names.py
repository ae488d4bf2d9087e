"""Every metric that the dashboard, the rules and the chart name is one of a running server."""

from __future__ import annotations

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from fletcher.serve.server import Server

from .queries import OF_CLIENT_CERTIFICATES, OF_PROMETHEUS, dashboard_queries, metrics_of, recorded, rules
from .tooling import CHART


def scraped(server: Server) -> set[str]:
    """Return the names of all samples of a scrape; a counter without a sample has the name of its family."""
    page = httpx.get(f"{server.addresses.http}/metrics", verify=False).text
    names: set[str] = set()
    for family in text_string_to_metric_families(page):
        names |= {sample.name for sample in family.samples}
        if family.type == "counter":
            names.add(f"{family.name}_total")
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
    return names


def test_every_metric_of_dashboard_and_rules_is_scraped_from_a_running_server(gpu_server: Server) -> None:
    queries = [query for _, query in dashboard_queries()] + [rule["expr"] for rule in rules()]
    named = set().union(*map(metrics_of, queries)) - OF_PROMETHEUS - recorded()
    named |= set(re.findall(r"fletcher_\w+", (CHART / "templates" / "autoscaling.yaml").read_text()))
    assert len(named) > 50
    names = scraped(gpu_server)
    assert named - names == OF_CLIENT_CERTIFICATES


def test_the_dashboard_names_every_recorded_series_that_exists() -> None:
    used = set().union(*(metrics_of(query) for _, query in dashboard_queries()))
    series = {name for name in used if name.startswith("job:")}
    assert series
    assert series <= recorded()
