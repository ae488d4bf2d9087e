"""Rules of Prometheus: promtool accepts them, and their unit tests pass and can fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .tooling import DEPLOY, MONITORING, ran, tool


@pytest.fixture
def promtool() -> str:
    return tool("promtool", "Debian: prometheus")


def test_promtool_accepts_rules_and_configuration(promtool: str) -> None:
    for command, file in (("rules", MONITORING / "rules.yaml"), ("config", DEPLOY / "compose" / "prometheus.yml")):
        options = ["--syntax-only"] if command == "config" else []
        result = ran(promtool, "check", command, *options, file)
        assert result.returncode == 0, result.stderr


def test_the_unit_tests_of_the_alerts_pass(promtool: str) -> None:
    result = ran(promtool, "test", "rules", MONITORING / "rules_test.yaml")
    assert result.returncode == 0, result.stderr + result.stdout


#: Texts of the rules, other texts, and the alert whose unit test must then fail.
CHANGES = (
    ("fletcher_queue_seconds) > 5", "fletcher_queue_seconds) > 50", "FletcherQueueLong"),
    ("ratio_rate1h > 0.0144", "ratio_rate1h > 0.5", "FletcherErrorBudgetBurn"),
    ("fletcher_model_ready) == 0", "fletcher_model_ready) == 1", "FletcherModelNotReady"),
    ("time() < 1209600", "time() < 12", "FletcherCertificateExpires"),
    ('type=\\"RateLimitError\\"', 'type=\\"OtherError\\"', "FletcherQuotaRefusals"),
)


@pytest.mark.slow
def test_changed_rules_fail_their_unit_tests(promtool: str, tmp_path: Path) -> None:
    text = (MONITORING / "rules.yaml").read_text()
    for rule, changed, _ in CHANGES:
        assert rule in text
        text = text.replace(rule, changed)
    (tmp_path / "rules.yaml").write_text(text)
    shutil.copy(MONITORING / "rules_test.yaml", tmp_path)
    result = ran(promtool, "test", "rules", tmp_path / "rules_test.yaml")
    assert result.returncode != 0
    for _, _, alert in CHANGES:
        assert f"alertname: {alert}," in result.stderr + result.stdout


def test_every_alert_has_a_unit_test_that_fires_it() -> None:
    import yaml

    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test.get("alert_rule_test", ()) if one["exp_alerts"]}
    assert alerts == fired
