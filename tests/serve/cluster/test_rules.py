"""Rules of the balancers fit to the routes of a server."""

from __future__ import annotations

import re

import msgspec
import yaml

from fletcher.serve.cluster.rules import ERRORS, ONCE, ONE_INSTANCE
from fletcher.serve.http.errors import ErrorBody
from fletcher.serve.http.routes import ADMIN_PATHS, computing_routes, http_routes
from fletcher.serve.models.changes import AdminRules

from .balancers import BALANCERS, cluster_of

PLACES = {"a": ("127.0.0.1:8081", "127.0.0.1:8815")}


def test_every_route_that_writes_is_sent_to_one_instance_only() -> None:
    computing = {(route.method, route.path) for route in computing_routes()}
    writing = {
        path
        for route in http_routes(admin=AdminRules(door="on", root=None, note=None))
        if route.method != "GET" and (route.method, route.path) not in computing
        for path in (route.path, *route.also)
    }
    assert {path for path in writing if not path.startswith(ADMIN_PATHS)} == set(ONCE)
    assert ADMIN_PATHS.rstrip("/") in ONE_INSTANCE


def test_retries_of_what_writes_end_when_an_instance_may_have_received_it() -> None:
    cluster = cluster_of({"p": (("m",), PLACES)})
    text = BALANCERS["haproxy"].write(cluster)
    backend = text.partition("backend http_p")[2].partition("\n\n")[0]
    assert "retry-on conn-failure empty-response 503" in backend
    assert "http-request disable-l7-retry if { path,url_dec -m end /v1/ingest /v1/ingest/ }" in backend
    assert "retry-on conn-failure " in text.partition("backend flight_p")[2]
    config = yaml.safe_load(BALANCERS["envoy"].write(cluster))
    found: dict[str, str] = {}
    for listener in config["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            if "route" in route:
                key = f"{listener['name']} {next(iter(route['match'].values()))}"
                found[key] = route["route"]["retry_policy"]["retry_on"]
    unsent = "connect-failure,refused-stream,reset-before-request"
    assert found == {
        "http {'regex': '.*/v1/ingest/?'}": unsent,
        "http /": f"{unsent},reset,retriable-status-codes",
        "flight /": unsent,
    }
    assert re.fullmatch(".*/v1/ingest/?", "/prefix/v1/ingest/")


def test_errors_of_the_balancer_have_the_form_of_the_server() -> None:
    for body in ERRORS.values():
        assert "'" not in body  # HAProxy's configuration quotes them
        assert msgspec.json.decode(body, type=ErrorBody).error.code
