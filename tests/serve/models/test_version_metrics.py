"""Metrics of versions: readiness and the distance of the canary from its reference follow the latest run."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from fletcher.runtime import Encoder
from fletcher.runtime.canary import CanaryResult
from fletcher.runtime.errors import ProviderError
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder
from ..observe.test_metrics import values

VERSION = "model=fake-model version=1"


def test_a_failed_canary_shows_in_readiness_and_distance(http_url: str, fake_encoder: FakeEncoder) -> None:
    found = values(httpx.get(f"{http_url}/metrics").content)
    assert found[f"fletcher_model_ready {VERSION}"] == 1
    assert f"fletcher_canary_distance {VERSION}" not in found  # the fake model does not report its load's canary
    fake_encoder.fails, fake_encoder.canary = ProviderError("broken"), CanaryResult(False, 0.5, 0.25, "far away")
    assert httpx.post(f"{http_url}/embed", json={"inputs": "ab"}).status_code == 424  # as TEI
    assert httpx.get(f"{http_url}/ready").status_code == 503
    found = values(httpx.get(f"{http_url}/metrics").content)
    assert found[f"fletcher_model_ready {VERSION}"] == 0
    assert found[f"fletcher_canary_distance {VERSION}"] == 0.25


def test_the_distance_of_a_loaded_model_is_that_of_its_canary(tiny_artifact: Path) -> None:
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        expected = encoder.check_canary().max_abs
    spec = ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas")
    with Server([spec], ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        found = values(httpx.get(f"{server.addresses.http}/metrics").content)
    (distance,) = (value for name, value in found.items() if name.startswith("fletcher_canary_distance model=tiny"))
    assert distance == pytest.approx(expected, abs=1e-7)
