"""Run of a driver: the script that makes a client's calls, in the client's environment, against one server."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from .client import DRIVERS, Client, Environment
from .environment import command

__all__ = ["DOCUMENTED_URL", "HARNESS", "DriverError", "Made", "make_calls"]

#: Address that settings in drivers and documents have; a run replaces it by the address of its server.
DOCUMENTED_URL = "http://localhost:8080"

#: Folder of the code that drivers share.
HARNESS = Path(__file__).parent / "harness"

#: Longest run of a driver, in seconds.
DRIVER_SECONDS = 150.0

#: Environment variables that keep clients from sending usage data and from loading lists over the network.
QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "*",
}


class DriverError(Exception):
    """`DriverError`: a driver ended without results, for example because an import failed."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """`Made`: a call that a driver made.

    Attributes:
        name: name in the table.
        expected: kind of the right result; `fault` in reference.py lists them.
        value: result of the call, of a form that depends on `expected`.
        error: the client's error, with which the call ended.
    """

    name: str
    expected: str
    value: Any = None
    error: str | None = None


def make_calls(name: str, client: Client, environment: Environment, folder: Path, url: str, inputs: Any) -> list[Made]:
    """Run a client's driver and return its calls.

    Args:
        name: folder of the client in `DRIVERS`.
        client: its description.
        environment: its environment.
        folder: folder of the installed environment.
        url: address of the server.
        inputs: texts, query and documents, as harness.py reads them.

    Raises:
        LeftOutError: the program that runs the driver is not installed.
        DriverError: the driver has no results.
    """
    # Node finds packages from the folder of the script upwards, so the copies are below the environment.
    with tempfile.TemporaryDirectory(dir=folder) as created:
        work = Path(created)
        driver = (DRIVERS / name / client.driver).resolve()
        for source in (driver, *HARNESS.iterdir()):
            if source.is_file():
                text = source.read_text(encoding="utf-8").replace(DOCUMENTED_URL, url)
                (work / source.name).write_text(text, encoding="utf-8")
        output = work / "output.json"
        arguments = [*command(environment, folder, work / driver.name), str(output), json.dumps(inputs)]
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "JAVA_HOME") if key in os.environ}
        variables = kept | QUIET | {"HOME": str(work)}
        try:
            ended = subprocess.run(
                arguments, cwd=work, env=variables, capture_output=True, text=True, timeout=DRIVER_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise DriverError(f"the calls take more than {DRIVER_SECONDS:.0f} s") from None
        if not output.is_file():
            raise DriverError(f"exit code {ended.returncode}: {ended.stderr.strip()[-2000:]}")
        results = output.read_text(encoding="utf-8").replace(url, DOCUMENTED_URL)
        return msgspec.json.decode(results, type=list[Made])
