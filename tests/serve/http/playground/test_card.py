"""`GET /v1/card`: the card, the variants and the calibration of the artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Artifact
from fletcher.runtime.artifact.calibration import Calibration
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder


@pytest.fixture(scope="module")
def url(tiny_artifact: Path) -> Iterator[str]:
    specs = [ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", workers=1)]
    with Server(specs, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        yield str(server.addresses.http)


def test_the_card_is_that_of_the_artifact(url: str, tiny_artifact: Path) -> None:
    manifest = Artifact.open(tiny_artifact).manifest
    answer = httpx.get(f"{url}/v1/card").json()
    assert msgspec.convert(answer["card"], ModelCard) == manifest.card
    assert (answer["model"], answer["version"], answer["variant"]) == ("tiny", "1", "cpu-fp32")
    assert answer["calibration"] is None
    for found, variant in zip(answer["variants"], manifest.variants, strict=True):
        assert found["name"] == variant.name
        assert found["measured"] == variant.measured
        assert found["tolerance"] == msgspec.to_builtins(variant.tolerance)
        assert found["canary"] == variant.canary
    assert httpx.get(f"{url}/v1/card", params={"model": "tiny@1"}).json() == answer
    unknown = httpx.get(f"{url}/v1/card", params={"model": "other"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_the_calibration_is_there() -> None:
    calibration = Calibration(
        measure="cosine",
        method="logistic",
        input_type="document",
        slope=2.0,
        intercept=1.0,
        pairs=9,
        positive=0.5,
        error=0.1,
        variant="cpu-fp32",
    )
    encoder = FakeEncoder()
    encoder.info = msgspec.structs.replace(encoder.info, calibration=calibration)
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        answer = httpx.get(f"{server.addresses.http}/v1/card").json()
    assert msgspec.convert(answer["calibration"], Calibration) == calibration
