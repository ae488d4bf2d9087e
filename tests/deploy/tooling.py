"""Tools that check the files of deploy/, and the scripts there as modules."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "fletcher"
MONITORING = DEPLOY / "monitoring"

#: Folders besides PATH: this environment's, and that of `make deploy-tools`.
FOLDERS = (Path(sys.executable).parent, ROOT / ".venv-tools" / "bin")


def tool(name: str, origin: str) -> str:
    """Return the path of a tool; skip the test without it.

    Args:
        name: name of the program.
        origin: package that has it, for the reason.
    """
    path = shutil.which(name, path=os.pathsep.join([*map(str, FOLDERS), os.environ.get("PATH", "")]))
    if path is None:
        pytest.skip(f"{name} is not installed ({origin})")
    return path


def helm_path() -> str:
    """Return the path of helm; skip the test without it."""
    return tool("helm", "make deploy-tools")


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program and return its output."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def script(path: str) -> Any:
    """Return a script of deploy/ as a module."""
    file = DEPLOY / path
    spec = importlib.util.spec_from_file_location(f"deploy_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module
    sys.path.insert(0, str(file.parent))  # a script that is run finds the scripts beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module
