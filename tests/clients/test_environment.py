"""Environments of clients: reuse, and reasons for which a client is left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from . import environment as module
from .client import Environment, clients, environments
from .environment import LeftOutError, install


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path))
    return tmp_path


def environment(language: str = "python", *packages: str) -> Environment:
    return Environment(name="some", language=language, packages=packages, alone=())


def test_an_environment_is_installed_once(cache: Path) -> None:
    folder = install(environment())
    assert folder.parent == cache / "clients"
    program = "import sys; print(sys.prefix)"
    shown = subprocess.run([str(folder / "bin" / "python"), "-c", program], capture_output=True, text=True, check=True)
    assert Path(shown.stdout.strip()) == folder
    marker = folder / "kept"
    marker.touch()
    assert install(environment()) == folder
    assert marker.exists()


def test_an_installation_that_fails_leaves_the_client_out(cache: Path) -> None:
    for _ in range(2):  # a failed installation is not taken for a complete one
        with pytest.raises(LeftOutError, match=r"the installation fails: .*no-such-folder"):
            install(environment("python", "./no-such-folder"))


def test_no_client_may_bring_torch(cache: Path) -> None:
    folder = cache / "clients" / f"some-{environment().digest}"
    install(environment())
    assert (folder / "constraints.txt").read_text() == "torch==0\n"


def test_a_slow_installation_leaves_the_client_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSTALL_SECONDS", 0.01)
    with pytest.raises(LeftOutError, match="the installation takes more than"):
        install(environment())


@pytest.mark.parametrize(("language", "program"), [("npm", "npm"), ("java", "java")])
def test_a_missing_program_leaves_the_client_out(language: str, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nowhere"))
    with pytest.raises(LeftOutError, match=f"{program} is not installed on this machine"):
        install(environment(language))


def test_clients_of_one_environment_are_installed_together() -> None:
    group = environments()["npm"]
    members = [client for client in clients().values() if client.environment == "npm"]
    assert len(members) > 1
    assert set(group.packages) == {package for client in members for package in client.packages}
    assert group.language == "npm"


def test_another_requirement_is_another_environment() -> None:
    assert environment("python", "openai").digest != environment("python", "openai>=2").digest
    assert environment("python", "openai").digest != environment("npm", "openai").digest
