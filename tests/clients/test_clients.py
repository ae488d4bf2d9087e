"""Clients of other servers against real servers, each installed in its own environment; writes the page of results."""

from __future__ import annotations

import pytest

from . import page, results
from .client import Client, Environment, clients, environments
from .driver import DriverError, Made, make_calls
from .environment import LeftOutError, install
from .reference import INPUTS, Reference, fault
from .results import CallResult, ClientResult

CLIENTS = clients()
ENVIRONMENTS = environments()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_the_references_results(name: str, servers: dict[str, str], reference: Reference) -> None:
    client = CLIENTS[name]
    result = run(name, client, ENVIRONMENTS[client.environment], servers, reference)
    all_results = {known: kept for known, kept in results.read().items() if known in CLIENTS} | {name: result}
    results.write(all_results)
    page.PAGE.write_text(page.render(CLIENTS, all_results), encoding="utf-8")
    if result.left_out:
        pytest.skip(result.left_out)
    faults = {call.name: call.fault for call in result.calls if call.fault is not None}
    unexpected = {call: found for call, found in faults.items() if call not in client.expected_failures}
    assert not unexpected
    mended = client.expected_failures.keys() - faults.keys()
    assert not mended, f"remove these from expected_failures of drivers/{name}/client.toml: they work"


def run(
    name: str, client: Client, environment: Environment, servers: dict[str, str], reference: Reference
) -> ClientResult:
    """Install a client, make its calls on every server, and compare them with the reference."""
    date, version = results.today(), results.fletcher_version()
    made: dict[str, list[Made]] = {}
    try:
        folder = install(environment)
        found = results.versions(client, environment, folder)
        for server, url in servers.items():
            made[server] = make_calls(name, client, environment, folder, url, INPUTS)
    except LeftOutError as reason:
        return ClientResult(date=date, fletcher=version, left_out=str(reason))
    except DriverError as error:
        failed = CallResult(name="all calls", expected="results", fault=" ".join(str(error).split())[-300:])
        return ClientResult(date=date, fletcher=version, versions=found, calls=(failed,))
    calls = tuple(_outcome(dict(zip(made, same, strict=True)), reference) for same in zip(*made.values(), strict=True))
    return ClientResult(date=date, fletcher=version, versions=found, calls=calls)


def _outcome(same: dict[str, Made], reference: Reference) -> CallResult:
    """Return the outcome of one call from what it gave on each server."""
    faults = {server: fault(made, reference) for server, made in same.items()}
    first = next((f"{server}: {found}" for server, found in faults.items() if found is not None), None)
    made = next(iter(same.values()))
    return CallResult(name=made.name, expected=made.expected, fault=first)
