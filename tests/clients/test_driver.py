"""Runs of drivers: results, errors of calls, and drivers that end without results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from . import driver as module
from .client import Client, Environment
from .driver import DriverError, make_calls
from .reference import INPUTS

URL = "http://127.0.0.1:1"
ENVIRONMENT = Environment(name="some", language="python", packages=(), alone=())

DRIVER = """
from harness import TEXTS, call, report

@call("address of one text")
def address():
    return [TEXTS[0], "http://localhost:8080/v1"]

@call("later", "ranking")
async def later():
    return [(0, 1.0)]

@call("wrong")
def wrong():
    raise ValueError("no such route at http://localhost:8080/v1")

print("a client's own output")
report()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an environment whose interpreter is the one of the tests, and let drivers be below it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "some").mkdir()
    monkeypatch.setattr(module, "DRIVERS", tmp_path)
    return tmp_path


def client(folder: Path, code: str) -> Client:
    (folder / "some" / "calls.py").write_text(code)
    return Client(name="Some", environment="some", driver="calls.py", settings=["Some()"])


def test_calls_see_the_servers_address_and_results_the_documented_one(folder: Path) -> None:
    address, later, wrong = make_calls("some", client(folder, DRIVER), ENVIRONMENT, folder, URL, INPUTS)
    assert (address.name, address.expected) == ("address of one text", "vectors")
    assert address.value == [INPUTS["texts"][0], "http://localhost:8080/v1"]
    assert (later.expected, later.value) == ("ranking", [[0, 1.0]])
    assert wrong.value is None
    assert wrong.error == "ValueError: no such route at http://localhost:8080/v1"


def test_the_server_is_the_one_of_the_run(folder: Path) -> None:
    code = DRIVER.replace("report()", 'assert "http://localhost:" + "8080" not in open(__file__).read()\nreport()')
    assert len(make_calls("some", client(folder, code), ENVIRONMENT, folder, URL, INPUTS)) == 3


def test_a_driver_without_results_is_an_error(folder: Path) -> None:
    with pytest.raises(DriverError, match=r"(?s)exit code 1: .*No module named 'no_such_client'"):
        make_calls("some", client(folder, "import no_such_client"), ENVIRONMENT, folder, URL, INPUTS)


def test_a_driver_that_hangs_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRIVER_SECONDS", 0.5)
    with pytest.raises(DriverError, match="the calls take more than"):
        make_calls("some", client(folder, "import time\ntime.sleep(60)"), ENVIRONMENT, folder, URL, INPUTS)
