"""Every query of the dashboard returns data from a real Prometheus that scrapes a running server."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from fletcher.serve.server import Server

from .conftest import ask
from .queries import OF_CLIENT_CERTIFICATES, dashboard_queries, metrics_of, rules
from .tooling import MONITORING, tool

#: Seconds between scrapes, and seconds in which the server must have been seen.
INTERVAL, SECONDS = 1, 60.0

#: Counters with labels, which have no series before their first event. Nothing here causes one.
WITHOUT_EVENT = ("RateLimitError", "UnauthorizedError", "fletcher_shadow_skipped", "fletcher_admission_refused")


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """Return the samples of an instant query."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


@pytest.mark.slow
def test_every_query_of_the_dashboard_returns_data(gpu_server: Server, tmp_path: Path) -> None:
    expected = [
        (title, expression)
        for title, expression in dashboard_queries()
        if not metrics_of(expression) & OF_CLIENT_CERTIFICATES and not any(name in expression for name in WITHOUT_EVENT)
    ]
    assert len(expected) >= len(dashboard_queries()) - 5
    prometheus = tool("prometheus", "Debian: prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    target = str(gpu_server.addresses.http).removeprefix("https://")
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {INTERVAL}s, evaluation_interval: {INTERVAL}s}}\n"
        f"rule_files: [{MONITORING / 'rules.yaml'}]\n"
        f"scrape_configs: [{{job_name: fletcher, static_configs: [{{targets: ['{target}']}}], scheme: https, "
        "tls_config: {insecure_skip_verify: true}}]\n"
    )
    options = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([prometheus, *options, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        url, end, waiting = f"http://{address}", time.monotonic() + SECONDS, ["nothing was asked"]
        while waiting and time.monotonic() < end:
            ask(gpu_server, 2)
            time.sleep(INTERVAL)
            try:
                waiting = [f"{title}: {expression}" for title, expression in expected if not query(url, expression)]
            except httpx.TransportError:  # it is still starting
                continue
        assert not waiting
        states = {
            each["name"]: each["health"]
            for group in httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"]
            for each in group["rules"]
        }
        assert {rule.get("alert") or rule["record"] for rule in rules()} == set(states)
        assert set(states.values()) == {"ok"}
        firing = httpx.get(f"{url}/api/v1/alerts").json()["data"]["alerts"]
        assert not [alert for alert in firing if alert["state"] == "firing"]
    finally:
        process.terminate()
        process.wait(30)
