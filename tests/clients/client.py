"""`Client`: one client of other servers, read from its folder in `drivers/`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["DRIVERS", "Client", "Environment", "clients", "environments"]

#: Folder that has a folder for each client: `client.toml`, and a script that makes the calls.
DRIVERS = Path(__file__).parent / "drivers"

#: Language of a driver by the ending of its file.
LANGUAGES = {".py": "python", ".mjs": "npm", ".java": "java"}


class Client(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Client`: description of one client, `client.toml` in its folder.

    Attributes:
        name: name in the table.
        environment: environment that its packages are installed in; clients of one name share it.
        driver: script that makes the calls, relative to its folder.
        packages: requirements, as pip or npm reads them.
        shown: packages whose versions the table shows; none shows the version of the language's own runtime.
        alone: packages of `packages` that are installed without the packages that they require.
        settings: code that a user writes, each a literal part of the driver.
        notes: sentence for the table, for example about a value that the client does not let its user choose.
        expected_failures: reason by the name of each call that fails today.
    """

    name: str
    environment: str
    driver: str
    packages: list[str] = []
    shown: list[str] = []
    alone: list[str] = []
    settings: list[str]
    notes: str = ""
    expected_failures: Mapping[str, str] = {}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """`Environment`: packages that are installed together.

    Attributes:
        name: name of its folder, before the digest.
        language: `python`, `npm` or `java`.
        packages: requirements with what they require.
        alone: requirements without what they require.
    """

    name: str
    language: str
    packages: tuple[str, ...]
    alone: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Eight hex digits that change with the requirements and with the version of Python."""
        content = repr((self, sys.version_info[:2])).encode()
        return hashlib.sha256(content).hexdigest()[:8]


def clients() -> dict[str, Client]:
    """Return the clients by the name of their folder.

    Raises:
        msgspec.ValidationError: a file has another form.
    """
    files = sorted(DRIVERS.glob("*/client.toml"))
    return {file.parent.name: msgspec.toml.decode(file.read_bytes(), type=Client) for file in files}


def environments() -> dict[str, Environment]:
    """Return the environments by name; each has the packages of all its clients."""
    groups: dict[str, list[Client]] = {}
    for client in clients().values():
        groups.setdefault(client.environment, []).append(client)
    return {name: _environment(name, group) for name, group in groups.items()}


def _environment(name: str, group: list[Client]) -> Environment:
    (language,) = {LANGUAGES[Path(client.driver).suffix] for client in group}
    alone = {package for client in group for package in client.alone}
    packages = {package for client in group for package in client.packages} - alone
    return Environment(
        name=name,
        language=language,
        packages=tuple(sorted(packages)),
        alone=tuple(sorted(alone)),
    )
