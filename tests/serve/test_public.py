"""Names that `fletcher.serve` exports, and the imports of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fletcher.serve
from fletcher.serve.engine.engine import Engine
from fletcher.serve.server import Server


def test_every_exported_name_exists() -> None:
    assert fletcher.serve.Engine is Engine
    assert fletcher.serve.Server is Server
    for name in fletcher.serve.__all__:
        assert getattr(fletcher.serve, name).__name__ == name


def test_an_unknown_name_is_an_error_that_lists_the_exported_names() -> None:
    with pytest.raises(
        AttributeError,
        match="no attribute 'Serve'; it has AsgiServer, AsyncEngine, EmbedRequest, Engine, HttpApp, ModelSpec, Server",
    ):
        fletcher.serve.Serve  # noqa: B018


def test_importing_the_package_imports_no_server() -> None:
    script = (
        "import sys, fletcher.serve; print([name for name in ('uvicorn', 'pyarrow.flight') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
