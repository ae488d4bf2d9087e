"""`haproxy_config`: configuration of HAProxy 2.6 or newer for a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .config import MODEL_HEADER, OFF, Cluster, Instance, Pool
from .rules import ERRORS, NO_GRPC_MODEL, ONCE, ONE_INSTANCE, READY, STATE, hints

__all__ = ["haproxy_config"]

#: Seconds that a connection of a client may be idle between two requests; as long as an instance keeps it.
KEEP_ALIVE: Final = 75


def haproxy_config(cluster: Cluster) -> str:
    """Return the text of the configuration."""
    sections = [_global(cluster), _defaults(cluster)]
    if any(pool.dns for pool in cluster.pools):
        sections.append(["resolvers names", "parse-resolv-conf", "hold valid 10s", "accepted_payload_size 8192"])
    if cluster.balancer.http != OFF:
        sections.append([*_http_frontend(cluster)])
    if cluster.balancer.flight != OFF:
        sections.append([*_flight_frontend(cluster)])
    if cluster.balancer.stats != OFF:
        sections.append([*_stats(cluster)])
    sections += [[*_http_backend(cluster, pool)] for pool in cluster.pools]
    if cluster.balancer.flight != OFF:
        sections += [[*_flight_backend(cluster, pool)] for pool in cluster.flight_pools]
    head = "\n".join(f"# {line}" for line in hints(cluster))
    return "\n\n".join([head, *("\n    ".join(section) for section in sections)]) + "\n"


def _global(cluster: Cluster) -> list[str]:
    balancer = cluster.balancer
    return [
        "global",
        "log stdout format raw local0",
        f"maxconn {balancer.max_connections}",
        # Streams that are open at a reload live on in the old process for this long.
        f"hard-stop-after {_ms(balancer.stop_seconds)}",
        # A request that fits into a buffer can be sent to another instance.
        f"tune.bufsize {balancer.retry_bytes}",
        "ssl-default-bind-options ssl-min-ver TLSv1.2",
    ]


def _defaults(cluster: Cluster) -> list[str]:
    balancer = cluster.balancer
    return [
        "defaults",
        "mode http",
        "log global",
        "option httplog",
        *([] if balancer.log_requests else ["option dontlog-normal"]),
        "option abortonclose    # an instance drops the work of a client that left",
        "option http-no-delay    # lines of a stream go on as they come",
        f"timeout connect {_ms(balancer.connect_seconds)}",
        f"timeout http-request {_ms(balancer.header_seconds)}",
        f"timeout http-keep-alive {KEEP_ALIVE}s",
        f"timeout client {_ms(balancer.idle_seconds)}",
        f"timeout server {_ms(balancer.idle_seconds)}",
        f"retries {balancer.retries}",
        "option redispatch 1    # each retry goes to another instance",
    ]


# Clients --------------------------------------------------------------------------------------------------------------


def _http_frontend(cluster: Cluster) -> Iterator[str]:
    yield "frontend http"
    yield f"bind {cluster.balancer.http}{_bind_tls(cluster, 'h2,http/1.1')}"
    yield f"monitor-uri {STATE}"
    for pool in cluster.pools:
        yield f"monitor fail if {{ nbsrv(http_{pool.name}) lt 1 }}"
    yield "unique-id-format %{+X}o%rt%Ts%pid%[rand]"
    yield "http-request set-header x-request-id %[unique-id] unless { req.hdr(x-request-id) -m found }"
    # Instances believe X-Forwarded-For, and neither header if both are there and disagree.
    yield "http-request del-header forwarded"
    yield "option forwardfor"
    if cluster.tls.certificate is not None:
        yield "http-request set-header x-forwarded-proto https"
    for path in ONE_INSTANCE:
        yield f"{_own(403)} if {{ path,url_dec -m str {path} }} or {{ path,url_dec -m beg {path}/ }}"
    yield from _choose(cluster, "http", cluster.pools)
    yield f"{_own(404)} unless {{ var(txn.pool) -m found }}"
    yield "use_backend %[var(txn.pool)]"
    for status in (502, 503, 504):
        yield f"http-error status {status} content-type application/json string '{ERRORS[status]}' hdr retry-after 1"


def _flight_frontend(cluster: Cluster) -> Iterator[str]:
    balancer = cluster.balancer
    yield "frontend flight"
    yield f"bind {balancer.flight}{_bind_tls(cluster, 'h2') or ' proto h2'}"
    yield f"timeout client {_ms(balancer.flight_idle_seconds)}"
    yield "option forwardfor"
    yield "http-request del-header forwarded"
    yield from _choose(cluster, "flight", cluster.flight_pools)
    yield (
        "http-request return status 200 hdr grpc-status 5 hdr grpc-message "
        f"'{NO_GRPC_MODEL}' unless {{ var(txn.pool) -m found }}"
    )
    yield "http-after-response set-header content-type application/grpc unless { var(txn.pool) -m found }"
    yield "use_backend %[var(txn.pool)]"


def _choose(cluster: Cluster, kind: str, pools: tuple[Pool, ...]) -> Iterator[str]:
    """Yield the rules that set the variable `pool` by the model in the header, without its version."""
    yield f"http-request set-var(txn.model) req.hdr({MODEL_HEADER}),field(1,@)"
    default = cluster.default_pool
    if default in pools:
        yield f"http-request set-var(txn.pool) str({kind}_{default.name})"
    for pool in pools:
        if pool is not default or len(pools) > 1:
            models = " ".join(pool.models)
            yield f"http-request set-var(txn.pool) str({kind}_{pool.name}) if {{ var(txn.model) -m str {models} }}"


def _stats(cluster: Cluster) -> Iterator[str]:
    yield "frontend stats"
    yield f"bind {cluster.balancer.stats}"
    yield "option dontlog-normal"
    yield "http-request use-service prometheus-exporter if { path /metrics }"
    yield "stats enable"
    yield "stats uri /"


# Instances ------------------------------------------------------------------------------------------------------------


def _http_backend(cluster: Cluster, pool: Pool) -> Iterator[str]:
    balancer = cluster.balancer
    yield f"backend http_{pool.name}"
    yield "balance leastconn"
    yield from _checks(cluster)
    if balancer.retries:
        # The whole request is read before it is sent, so that it can be sent again.
        yield "option http-buffer-request"
        yield "retry-on conn-failure empty-response 503"
        for path in ONCE:
            yield f"http-request disable-l7-retry if {{ path,url_dec -m end {path} {path}/ }}"
    tls = _server_tls(cluster, "http/1.1")
    if pool.dns is not None:
        yield f"{_template(pool)}:{pool.http_port} resolvers names init-addr none check{tls}"
    for each in pool.instances:
        yield f"server {each.name} {each.http} check{tls}"


def _flight_backend(cluster: Cluster, pool: Pool) -> Iterator[str]:
    balancer = cluster.balancer
    yield f"backend flight_{pool.name}"
    yield "balance roundrobin"
    yield f"timeout server {_ms(balancer.flight_idle_seconds)}"
    if balancer.retries:
        yield "retry-on conn-failure    # a call may write"
    tls = _server_tls(cluster, "h2") or " proto h2"
    if pool.dns is not None:
        yield from _checks(cluster)
        http = " check-ssl check-alpn http/1.1" if cluster.tls.instance_ca else " check-proto h1"
        check = f"check port {pool.http_port}{http}"
        yield f"{_template(pool)}:{pool.flight_port} resolvers names init-addr none {check}{tls}"
    for each in pool.instances:
        yield f"server {each.name} {_flight_of(each)}{tls} track http_{pool.name}/{each.name}"


def _checks(cluster: Cluster) -> Iterator[str]:
    balancer = cluster.balancer
    yield "option httpchk"
    yield f"http-check send meth GET uri {READY} ver HTTP/1.1 hdr host localhost"
    yield "http-check expect status 200"
    quick = _ms(balancer.check_seconds / 4)
    yield (
        f"default-server inter {_ms(balancer.check_seconds)} fastinter {quick} downinter {_ms(balancer.check_seconds)} "
        f"fall {balancer.falls} rise {balancer.rises} observe layer4 error-limit 1 on-error fastinter"
    )


def _template(pool: Pool) -> str:
    return f"server-template {pool.name} 1-{pool.most} {pool.dns}"


def _flight_of(instance: Instance) -> str:
    assert instance.flight is not None  # of a pool that has Flight
    return instance.flight


def _bind_tls(cluster: Cluster, protocols: str) -> str:
    certificate = cluster.tls.certificate
    return "" if certificate is None else f" ssl crt {certificate} alpn {protocols}"


def _server_tls(cluster: Cluster, protocols: str) -> str:
    tls = cluster.tls
    if tls.instance_ca is None:
        return ""
    name = tls.instance_name
    verify = f"verify required verifyhost {name} sni str({name}) check-sni {name}"
    return f" ssl ca-file {tls.instance_ca} {verify} alpn {protocols}"


def _own(status: int) -> str:
    return f"http-request return status {status} content-type application/json string '{ERRORS[status]}'"


def _ms(seconds: float) -> str:
    return f"{max(round(1000 * seconds), 1)}ms"
