"""Installation of clients into environments of their own, which later runs use again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from fletcher.model_zoo.sources.cache import cache_folder

from .client import Environment

__all__ = ["INSTALL_SECONDS", "LeftOutError", "command", "install"]

#: Longest time for the installation of an environment, in seconds. A client that needs longer is left out.
INSTALL_SECONDS = 240.0

#: Name of the file that an environment has when it is complete.
COMPLETE = "complete"


class LeftOutError(Exception):
    """`LeftOutError`: a client cannot be installed here; the message is the reason in the table."""


def install(environment: Environment) -> Path:
    """Return the folder of an environment, and install its packages if no earlier run did.

    The folder is `clients/NAME-DIGEST` in Fletcher's cache. Delete it to install the newest versions.

    Raises:
        LeftOutError: a program is missing, or the installation fails or takes more than `INSTALL_SECONDS`.
    """
    folder = cache_folder(None) / "clients" / f"{environment.name}-{environment.digest}"
    if (folder / COMPLETE).is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    end = time.monotonic() + INSTALL_SECONDS
    for arguments in _steps(environment, folder):
        try:
            subprocess.run(
                arguments, cwd=folder, check=True, capture_output=True, text=True, timeout=end - time.monotonic()
            )
        except subprocess.TimeoutExpired:
            raise LeftOutError(f"the installation takes more than {INSTALL_SECONDS / 60:.0f} minutes") from None
        except subprocess.CalledProcessError as error:
            raise LeftOutError(f"the installation fails: {_last_line(error.stderr)}") from error
    (folder / COMPLETE).touch()
    return folder


def command(environment: Environment, folder: Path, driver: Path) -> list[str]:
    """Return the command line that runs a driver in its environment.

    Raises:
        LeftOutError: this machine does not have the program that runs it.
    """
    if environment.language == "python":
        return [str(folder / "bin" / "python"), str(driver)]
    if environment.language == "npm":
        return [_program("node"), str(driver)]
    return [_program("java"), str(driver)]  # Java compiles a single source file by itself


def _steps(environment: Environment, folder: Path) -> list[list[str]]:
    """Return the command lines that install an environment into an empty folder."""
    if environment.language == "java":
        _program("java")
        return []
    if environment.language == "npm":
        (folder / "package.json").write_text(json.dumps({"name": "clients", "private": True, "type": "module"}))
        return [[_program("npm"), "install", "--no-audit", "--no-fund", "--loglevel=error", *environment.packages]]
    (folder / "constraints.txt").write_text("torch==0\n")  # no client may bring gigabytes of torch and CUDA
    interpreter = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", "--without-pip", str(folder)]]
    if environment.packages:
        steps.append([*pip, "--constraint", "constraints.txt", *environment.packages])
    if environment.alone:
        steps.append([*pip, "--no-deps", *environment.alone])
    return steps


def _program(name: str) -> str:
    """Return the path of a program.

    Raises:
        LeftOutError: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise LeftOutError(f"{name} is not installed on this machine")
    return path


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1][:200]
