"""The page of tested clients: it shows the stored results and settings that a driver runs."""

from __future__ import annotations

import re

import msgspec
import pytest

from . import page, results
from .client import DRIVERS, clients
from .results import CallResult, ClientResult

CLIENTS = clients()


def joined(code: str) -> str:
    """Return code without white space and last commas, in which formatters differ."""
    return re.sub(r",([)\]}])", r"\1", re.sub(r"\s+", "", code))


@pytest.mark.parametrize("name", CLIENTS)
def test_a_setting_is_a_part_of_the_driver(name: str) -> None:
    client = CLIENTS[name]
    driver = joined((DRIVERS / name / client.driver).read_text(encoding="utf-8"))
    assert client.settings
    missing = [setting for setting in client.settings if joined(setting) not in driver]
    assert not missing


def test_the_page_shows_the_stored_results() -> None:
    stored = results.read()
    assert stored.keys() == CLIENTS.keys(), "run the tests of tests/clients with the marker slow"
    assert page.PAGE.read_text(encoding="utf-8") == page.render(CLIENTS, stored)


def test_stored_faults_are_expected() -> None:
    for name, result in results.read().items():
        faults = {call.name for call in result.calls if call.fault is not None}
        assert faults == CLIENTS[name].expected_failures.keys(), name


def test_a_fault_shows_as_failing() -> None:
    calls = (CallResult(name="a", expected="vectors"), CallResult(name="b", expected="ranking", fault="400 | no <b>"))
    shown = page.render(
        {"openai": CLIENTS["openai"]},
        {"openai": ClientResult(date="2026-01-02", fletcher="1.0", versions={"openai": "2.0"}, calls=calls)},
    )
    assert "| openai 2.0 | 1 of 2 | 1.0 | 2026-01-02 |" in shown
    assert "| `a` | vectors | right |" in shown
    assert "| `b` | ranking | **fails**: 400 \\| no &lt;b> |" in shown


def test_a_known_failure_has_its_reason() -> None:
    reason = "It sends no key."
    client = msgspec.structs.replace(CLIENTS["openai"], expected_failures={"embed": reason})
    calls = (CallResult(name="embed", expected="query in 16 dimensions", fault="401"),)
    shown = page.render({"openai": client}, {"openai": ClientResult(date="2026-01-02", fletcher="1.0", calls=calls)})
    assert f"| `embed` | vectors of queries in 16 dimensions | **fails**: {reason} 401 |" in shown


def test_clients_that_were_left_out_or_not_run_are_shown() -> None:
    left_out = ClientResult(date="2026-01-02", fletcher="1.0", left_out="node is not installed on this machine")
    shown = page.render({"a": CLIENTS["openai-npm"], "b": CLIENTS["openai"]}, {"a": left_out})
    assert (
        "| [OpenAI, npm](#openai-npm) |  | left out: node is not installed on this machine | 1.0 | 2026-01-02 |"
        in shown
    )
    assert "| [OpenAI, Python](#openai-python) | | not run | | |" in shown
