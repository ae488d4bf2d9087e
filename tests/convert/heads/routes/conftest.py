"""Model that the tests of routes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.convert.export.export import export

from .routers import save_shared


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model with a shared encoder, and its artifact beside it."""
    folder = save_shared(tmp_path_factory.mktemp("shared"), default_route="document")
    export(str(folder), folder.parent / "artifact")
    return folder
