"""A command in this process, where torch is imported already: a process of its own needs seconds for it."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import typer

from fletcher.runtime.commandline.console import run

__all__ = ["run_here"]


def run_here(app: typer.Typer, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command line, and return its exit code and its output."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "excepthook", sys.excepthook),  # `run` replaces it
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as stopped,
    ):
        run(app, [*map(str, args)])
    assert isinstance(stopped.value.code, int)
    return subprocess.CompletedProcess(list(args), stopped.value.code, output.getvalue(), errors.getvalue())
