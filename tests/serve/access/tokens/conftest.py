"""Fixtures: an issuer whose keys a server on the loopback has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fletcher.serve.access.tokens.tokens import Tokens
from tests.doubles.issuer import Issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


@pytest.fixture
def settings(issuer: Issuer, tmp_path: Path) -> Path:
    return issuer.write_settings(tmp_path / "jwt.toml")


@pytest.fixture
def tokens(settings: Path) -> Iterator[Tokens]:
    made = Tokens(settings)
    yield made
    made.close()
