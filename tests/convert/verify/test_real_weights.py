"""Real weights layer by layer: all-MiniLM-L6-v2 and all-mpnet-base-v2, fetched once into Fletcher's cache.

Their vectors on all texts are compared by test_verify.py (MiniLM) and by the published canary that each export must pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # from torch and its users
]

LAYERS = {"all-MiniLM-L6-v2": 6, "all-mpnet-base-v2": 12}


@pytest.mark.parametrize("name", LAYERS)
def test_every_point_agrees_with_transformers(tmp_path: Path, name: str) -> None:
    assert export(name, tmp_path / "artifact").status == "published"
    report = verify_layers(tmp_path / "artifact")
    assert report.first is None, report.summary
    points = {point.key for point in report.points}
    assert {f"layers.{LAYERS[name] - 1}/{part}" for part in ("attention/softmax", "feed_forward/norm")} <= points
