"""Files of deploy/ that scripts write from tables and from the code are those that the scripts write now."""

from __future__ import annotations

import json

import yaml

from fletcher.serve.statuses import STATUSES

from .tooling import CHART, MONITORING, script


def test_the_schema_of_values_has_the_options_of_the_server_and_its_models() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema == script("tools/values_schema.py").schema(), "run python deploy/tools/values_schema.py"
    assert "queue_seconds" in schema["properties"]["server"]["properties"]
    assert "require_signature" in schema["properties"]["models"]["items"]["properties"]


def test_the_dashboard_is_the_one_of_the_script() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    assert dashboard == script("tools/dashboard.py").dashboard(), "run python deploy/tools/dashboard.py"


def test_the_rules_are_those_of_the_script_and_know_the_failures_of_flight() -> None:
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    module = script("tools/rules.py")
    assert rules == module.groups(), "run python deploy/tools/rules.py"
    failures = set(module.FLIGHT_FAILURES.split("|"))
    assert {"ProviderError", "StoppingError", "DeadlineError"} <= failures
    assert not failures & {error.__name__ for error, status in STATUSES.items() if status.http < 500}
