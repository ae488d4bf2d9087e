"""Fixture: loads in the tests of this folder measure providers, as they do outside tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _measuring(real_measuring: None) -> None:
    """Let loads measure."""
