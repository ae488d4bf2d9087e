"""Results of the clients' calls: what the table of the documentation shows, kept in a file between runs."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path

import msgspec

import fletcher

from .client import Client, Environment

__all__ = ["RESULTS", "CallResult", "ClientResult", "fletcher_version", "read", "today", "versions", "write"]

ROOT = Path(__file__).parents[2]

#: File of the last results, which the page is made from.
RESULTS = ROOT / "docs" / "reference" / "compatibility.json"


class CallResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`CallResult`: outcome of one call on all servers.

    Attributes:
        name: name of the call.
        expected: kind of the right result.
        fault: first fault, with the server that showed it; None if the result is right on every server.
    """

    name: str
    expected: str
    fault: str | None = None


class ClientResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`ClientResult`: outcome of one client.

    Attributes:
        date: day of the run, as YYYY-MM-DD in UTC.
        fletcher: version of Fletcher.
        versions: version by package.
        calls: outcomes of the calls, in the driver's order.
        left_out: reason for which nothing was run.
    """

    date: str
    fletcher: str
    versions: Mapping[str, str] = {}
    calls: tuple[CallResult, ...] = ()
    left_out: str | None = None


def read(file: Path = RESULTS) -> dict[str, ClientResult]:
    """Return the results of the last runs by the client's folder.

    Raises:
        msgspec.ValidationError: the file has another form.
    """
    return msgspec.json.decode(file.read_bytes(), type=dict[str, ClientResult]) if file.is_file() else {}


def write(results: Mapping[str, ClientResult], file: Path = RESULTS) -> None:
    """Write results, one client after the other in the order of their folders."""
    encoded = msgspec.json.format(msgspec.json.encode(dict(sorted(results.items()))), indent=1)
    file.write_bytes(encoded + b"\n")


def versions(client: Client, environment: Environment, folder: Path) -> dict[str, str]:
    """Return the versions of a client's shown packages in its environment."""
    if environment.language == "java":
        shown = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True)
        return {"JDK": shown.stderr.split('"')[1]}
    if environment.language == "npm":
        files = {name: folder / "node_modules" / name / "package.json" for name in client.shown}
        return {name: msgspec.json.decode(file.read_bytes())["version"] for name, file in files.items()}
    (packages,) = folder.glob("lib/python*/site-packages")
    found = {name: next(iter(Distribution.discover(name=name, path=[str(packages)]))) for name in client.shown}
    return {name: distribution.version for name, distribution in found.items()}


def fletcher_version() -> str:
    """Return Fletcher's version, with the commit where the tests run in a repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{fletcher.__version__} ({commit})" if commit else fletcher.__version__


def today() -> str:
    return datetime.now(UTC).date().isoformat()
