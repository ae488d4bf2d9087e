"""The example of Daft, with the right vectors of every row."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("daft")

from ..conftest import Tiny
from .examples import check

pytestmark = pytest.mark.slow


def test_the_example_embeds_every_row(tiny: Tiny, tmp_path: Path) -> None:
    check("embed_with_daft.py", tiny, tmp_path)
