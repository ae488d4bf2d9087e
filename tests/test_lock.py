"""`requirements.lock`: exact versions of all packages that make installs, within the bounds of pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]

#: Requirements that `make demo`, `make test`, CI and the make targets for maintainers install.
INSTALLED = [
    *PROJECT["project"]["dependencies"],
    *(line for extra in ("cpu", "http", "flight", "verify", "dev") for line in EXTRAS[extra]),
    *(line for group in PROJECT["dependency-groups"].values() for line in group),
    *PROJECT["build-system"]["requires"],
]


def locked() -> dict[str, list[Version]]:
    """Return the versions of each package; there are several if they depend on the Python version."""
    versions: dict[str, list[Version]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (exact,) = requirement.specifier
            assert exact.operator == "==", line
            versions.setdefault(canonicalize_name(requirement.name), []).append(Version(exact.version))
    return versions


@pytest.mark.parametrize("line", INSTALLED)
def test_every_requirement_is_locked_within_its_bounds(line: str) -> None:
    requirement = Requirement(line)
    versions = locked()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(("platform", "machine"), [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")])
def test_every_environment_has_one_version_of_each_requirement(python: str, platform: str, machine: str) -> None:
    environment = {name: str(value) for name, value in default_environment().items()} | {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": platform,
        "platform_system": platform.capitalize(),
        "platform_machine": machine,
    }
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [canonicalize_name(pin.name) for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
    assert len(here) == len(set(here))
    needed = [Requirement(line) for line in INSTALLED]
    names = {canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate(environment)}
    assert names <= set(here)


def test_torch_is_the_version_that_make_names() -> None:
    (version,) = locked()["torch"]
    assert f"TORCH := torch=={version}\n" in (ROOT / "Makefile").read_text()
