"""Queries of the dashboard and of the rules, and the metrics that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import promql_parser
import yaml

from .tooling import MONITORING

#: Variables of the dashboard, with values for a query to Prometheus.
VARIABLES = {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+"}

#: Metrics that only a server has whose clients have certificates; `tests/serve/tls` looks at them.
OF_CLIENT_CERTIFICATES = {"fletcher_revocation_list_expiry_seconds"}

#: Metrics that Prometheus makes.
OF_PROMETHEUS = {"up"}


def dashboard_queries() -> list[tuple[str, str]]:
    """Return the queries of the dashboard with their panels' titles."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    found = []
    for panel in panels:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            found.append((panel["title"], query))
    return found


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> set[str]:
    """Return the names of recorded series."""
    return {rule["record"] for rule in rules() if "record" in rule}


def metrics_of(query: str) -> set[str]:
    """Return the metrics that a query names.

    Raises:
        ValueError: it is not PromQL.
    """
    return {name for name in _names(promql_parser.parse(query)) if name}


def _names(node: Any) -> Iterator[str | None]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from _names(node.lhs)
        yield from _names(node.rhs)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _names(argument)
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from _names(node.vector_selector)
    elif hasattr(node, "expr"):
        yield from _names(node.expr)
