"""Two keys: bob's statuses, counters and latency do not depend on what ann sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fletcher.runtime import Encoder
from fletcher.serve.engine.fairness.order import FairQueue
from fletcher.serve.engine.open_request import OpenRequest

from .two_keys import ROWS, longest_waits, write_keys

#: How many times as long as alone bob's slowest answer may take. That bounds his 99th percentile.
SLOWER = 3.0


@pytest.fixture(scope="module")
def encoder(tiny_artifact: Path) -> Iterator[Encoder]:
    with Encoder.load(tiny_artifact, provider="mlas", cache=0) as encoder:
        yield encoder


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys.json")


@pytest.mark.parametrize("row", ROWS)
def test_bob_is_served_as_if_he_were_alone(encoder: Encoder, keys: Path, row: str) -> None:
    alone, beside = longest_waits(encoder, keys, *ROWS[row])
    assert beside <= SLOWER * alone


def test_the_comparison_finds_a_queue_in_the_order_of_arrival(
    encoder: Encoder, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(self: FairQueue, request: OpenRequest) -> None:
        request.place = (0.0, next(self._numbers))

    monkeypatch.setattr(FairQueue, "_place", place)
    alone, beside = longest_waits(encoder, keys, *ROWS["lists"])
    assert beside > SLOWER * alone
