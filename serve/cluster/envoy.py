"""`envoy_config`: configuration of Envoy 1.40 for a cluster, without a control plane."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from ..access.addresses import HostPort, parse
from .config import MODEL_HEADER, OFF, Cluster, Pool
from .rules import ERRORS, NO_GRPC_MODEL, ONCE, ONE_INSTANCE, READY, STATE, hints
from .yaml import to_yaml

__all__ = ["envoy_config"]

TYPE: Final = "type.googleapis.com/envoy."
MANAGER: Final = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER: Final = "extensions.filters.http.router.v3.Router"
PREVIOUS_HOSTS: Final = "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
PROTOCOL: Final = "extensions.upstreams.http.v3.HttpProtocolOptions"

#: Limits of an upstream.
LIMITS: Final = ("max_connections", "max_pending_requests", "max_requests", "max_retries")

#: Seconds that a connection of a client may be idle between two requests; as long as an instance keeps it.
KEEP_ALIVE: Final = 75.0


def envoy_config(cluster: Cluster) -> str:
    """Return the text of the configuration, in YAML."""
    balancer = cluster.balancer
    listeners, clusters = [], []
    if balancer.http != OFF:
        listeners.append(_listener(cluster, "http", balancer.http))
        clusters += [_upstream(cluster, pool, "http") for pool in cluster.pools]
    if balancer.flight != OFF:
        listeners.append(_listener(cluster, "flight", balancer.flight))
        clusters += [_upstream(cluster, pool, "flight") for pool in cluster.flight_pools]
    config: dict[str, Any] = {
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": {"resource_monitors": [_limit(balancer.max_connections)]},
    }
    if balancer.stats != OFF:
        config["admin"] = {"address": _socket(parse(balancer.stats, "stats"))}
    return "".join(f"# {line}\n" for line in hints(cluster)) + to_yaml(config)


def _limit(connections: int) -> dict[str, Any]:
    kind = "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return _extension(name, kind, {"max_active_downstream_connections": connections})


# Clients --------------------------------------------------------------------------------------------------------------


def _listener(cluster: Cluster, kind: str, address: str) -> dict[str, Any]:
    balancer = cluster.balancer
    flight = kind == "flight"
    idle = balancer.flight_idle_seconds if flight else balancer.idle_seconds
    options = {
        "stat_prefix": kind,
        "codec_type": "HTTP2" if flight else "AUTO",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": kind,
                    "domains": ["*"],
                    "routes": _routes(cluster, kind),
                    "request_body_buffer_limit": balancer.retry_bytes,  # what a retry may send again
                }
            ],
            # Instances believe X-Forwarded-For, and neither header if both are there and disagree.
            "request_headers_to_remove": ["forwarded"],
        },
        "http_filters": [*_health(cluster, kind), _extension("envoy.filters.http.router", ROUTER)],
        "use_remote_address": True,
        "preserve_external_request_id": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        "request_headers_timeout": _s(balancer.header_seconds),
        "stream_idle_timeout": _s(idle),
        "drain_timeout": _s(balancer.stop_seconds),
        "common_http_protocol_options": {"idle_timeout": _s(max(idle, KEEP_ALIVE) if flight else KEEP_ALIVE)},
        "access_log": [_access_log()] if balancer.log_requests else [],
    }
    chain: dict[str, Any] = {"filters": [_extension("envoy.filters.network.http_connection_manager", MANAGER, options)]}
    if cluster.tls.certificate is not None:
        chain["transport_socket"] = _client_tls(cluster.tls.certificate, ["h2"] if flight else ["h2", "http/1.1"])
    return {"name": kind, "address": _socket(parse(address, kind)), "filter_chains": [chain]}


def _routes(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    """Return the routes of a listener: what the balancer answers itself, then each pool by the model, then the default."""
    pools = cluster.pools if kind == "http" else cluster.flight_pools
    routes: list[dict[str, Any]] = []
    if kind == "http":
        for path in ONE_INSTANCE:
            routes += [_answer({"path": path}, 403), _answer({"prefix": f"{path}/"}, 403)]
    default = cluster.default_pool
    for pool in pools:
        if pool is not default or len(pools) > 1:
            names = "|".join(re.escape(model) for model in pool.models)
            match = {"string_match": {"safe_regex": {"regex": f"(?:{names})(?:@.*)?"}}}
            routes += _to_pool(cluster, kind, pool, [{"name": MODEL_HEADER, **match}])
    if default in pools:
        return routes + _to_pool(cluster, kind, default, [])
    if kind == "http":
        return [*routes, _answer({"prefix": "/"}, 404)]
    headers = [
        _header("content-type", "application/grpc"),
        _header("grpc-status", "5"),
        _header("grpc-message", NO_GRPC_MODEL),
    ]
    return [*routes, {"match": {"prefix": "/"}, "direct_response": {"status": 200}, "response_headers_to_add": headers}]


def _to_pool(cluster: Cluster, kind: str, pool: Pool, headers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    flight = kind == "flight"
    routes = []
    for path in () if flight else ONCE:
        routes.append(
            _route(cluster, kind, pool, {"safe_regex": {"regex": f".*{path}/?"}, "headers": headers}, once=True)
        )
    return [*routes, _route(cluster, kind, pool, {"prefix": "/", "headers": headers}, once=flight)]


def _route(cluster: Cluster, kind: str, pool: Pool, match: dict[str, Any], *, once: bool) -> dict[str, Any]:
    balancer = cluster.balancer
    if not match["headers"]:
        match.pop("headers")
    action: dict[str, Any] = {
        "cluster": f"{kind}_{pool.name}",
        "timeout": "0s",  # a stream may last; the idle timeout ends one that stands still
    }
    if balancer.retries:
        # Without a response, `reset` sends again what an instance may have computed; the others, what none has received.
        unsent = "connect-failure,refused-stream,reset-before-request"
        action["retry_policy"] = {
            "retry_on": unsent if once else f"{unsent},reset,retriable-status-codes",
            "num_retries": balancer.retries,
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            "retry_host_predicate": [_extension("envoy.retry_host_predicates.previous_hosts", PREVIOUS_HOSTS)],
            "host_selection_retry_max_attempts": 5,
        } | ({} if once else {"retriable_status_codes": [503]})
    return {"match": match, "route": action}


def _answer(match: dict[str, Any], status: int) -> dict[str, Any]:
    return {
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": ERRORS[status]}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _health(cluster: Cluster, kind: str) -> list[dict[str, Any]]:
    """Return the filter that answers `STATE` by the health of the pools."""
    if kind != "http":
        return []
    least = {f"http_{pool.name}": {"value": 1.0} for pool in cluster.pools}
    path = {"name": ":path", "string_match": {"exact": STATE}}
    options = {"pass_through_mode": False, "cluster_min_healthy_percentages": least, "headers": [path]}
    return [
        _extension("envoy.filters.http.health_check", "extensions.filters.http.health_check.v3.HealthCheck", options)
    ]


def _access_log() -> dict[str, Any]:
    kind = "extensions.access_loggers.stream.v3.StdoutAccessLog"
    return _extension("envoy.access_loggers.stdout", kind)


# Instances ------------------------------------------------------------------------------------------------------------


def _upstream(cluster: Cluster, pool: Pool, kind: str) -> dict[str, Any]:
    balancer = cluster.balancer
    flight = kind == "flight"
    if pool.dns is not None:
        ports = [(HostPort(pool.dns, pool.http_port), HostPort(pool.dns, pool.flight_port))]
    else:
        ports = [(parse(each.http, "http"), parse(each.flight or each.http, "flight")) for each in pool.instances]
    numeric = all(_is_address(http.host) for http, _ in ports)
    endpoints = [
        {"address": _socket(grpc), "health_check_config": {"port_value": http.port}}
        if flight
        else {"address": _socket(http)}
        for http, grpc in ports
    ]
    protocol: dict[str, Any] = {"http2_protocol_options": {}} if flight else {"http_protocol_options": {}}
    upstream: dict[str, Any] = {
        "name": f"{kind}_{pool.name}",
        "type": "STATIC" if numeric else "STRICT_DNS",
        "connect_timeout": _s(balancer.connect_seconds),
        "load_assignment": {
            "cluster_name": f"{kind}_{pool.name}",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint} for endpoint in endpoints]}],
        },
        # Without it Envoy sends to instances that are not ready if half of them are not.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0.0}},
        "health_checks": [_check(cluster)],
        # An instance that refuses connections is left before the next look at it: it has the fewest open requests.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": balancer.falls,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "interval": _s(balancer.check_seconds),
            "base_ejection_time": _s(balancer.check_seconds),
            "max_ejection_time": _s(balancer.check_seconds),
            "max_ejection_percent": 100,
        },
        # The defaults are 1,024 requests, and 3 retries at a time: too few when an instance fails under load.
        "circuit_breakers": {"thresholds": [dict.fromkeys(LIMITS, balancer.max_connections)]},
        "typed_extension_protocol_options": {
            f"envoy.{PROTOCOL}": {
                "@type": TYPE + PROTOCOL,
                "explicit_http_config": protocol,
                "common_http_protocol_options": {"idle_timeout": _s(KEEP_ALIVE * 0.8)},  # before the instance ends it
            }
        },
    }
    if not numeric:
        # An address that its name has no longer gets no requests, also while it is ready. Requests that it has are answered.
        upstream["ignore_health_on_host_removal"] = True
    if flight:
        upstream["lb_policy"] = "ROUND_ROBIN"
    else:
        upstream["lb_policy"] = "LEAST_REQUEST"
        kind_of_policy = "extensions.load_balancing_policies.least_request.v3.LeastRequest"
        policy = _extension(
            "envoy.load_balancing_policies.least_request", kind_of_policy, {"selection_method": "FULL_SCAN"}
        )
        upstream["load_balancing_policy"] = {"policies": [{"typed_extension_config": policy}]}
    if cluster.tls.instance_ca is not None and cluster.tls.instance_name is not None:
        upstream["transport_socket"] = _instance_tls(
            cluster.tls.instance_ca, cluster.tls.instance_name, "h2" if flight else "http/1.1"
        )
        if flight:  # `/ready` is on the port of HTTP, which does not speak HTTP/2
            upstream["health_checks"][0]["tls_options"] = {"alpn_protocols": ["http/1.1"]}
    return upstream


def _check(cluster: Cluster) -> dict[str, Any]:
    balancer = cluster.balancer
    return {
        "timeout": _s(max(balancer.check_seconds, 1.0)),
        "interval": _s(balancer.check_seconds),
        "unhealthy_edge_interval": _s(balancer.check_seconds / 4),
        "unhealthy_threshold": balancer.falls,
        "healthy_threshold": balancer.rises,
        "no_traffic_interval": _s(balancer.check_seconds),
        "http_health_check": {"path": READY, "host": "localhost", "codec_client_type": "HTTP1"},
    }


# Parts ----------------------------------------------------------------------------------------------------------------


def _client_tls(certificate: str, protocols: list[str]) -> dict[str, Any]:
    pair = {"certificate_chain": {"filename": certificate}, "private_key": {"filename": certificate}}
    common = {
        "tls_certificates": [pair],
        "alpn_protocols": protocols,
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
    }
    kind = "extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return _extension("envoy.transport_sockets.tls", kind, {"common_tls_context": common})


def _instance_tls(ca: str, name: str, protocol: str) -> dict[str, Any]:
    names = [{"san_type": "DNS", "matcher": {"exact": name}}]
    common = {
        "validation_context": {"trusted_ca": {"filename": ca}, "match_typed_subject_alt_names": names},
        "alpn_protocols": [protocol],
    }
    kind = "extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return _extension("envoy.transport_sockets.tls", kind, {"sni": name, "common_tls_context": common})


def _extension(name: str, kind: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": TYPE + kind, **(options or {})}}


def _socket(address: HostPort) -> dict[str, Any]:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _s(seconds: float) -> str:
    return f"{seconds:g}s"
