"""`GET /v1/card`: the card, the variants and the calibration of a model, from what is loaded."""

from __future__ import annotations

import httpx
import msgspec

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.calibration import Calibration
from fletcher.runtime.model_info import VariantInfo
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import CARD, FakeEncoder
from .test_inside import VARIANTS


def test_card_variants_and_calibration_are_those_of_the_loaded_model() -> None:
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
    encoder.info = msgspec.structs.replace(encoder.info, calibration=calibration, variants=VARIANTS)
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        answer = httpx.get(f"{server.addresses.http}/v1/card").json()
        named = httpx.get(f"{server.addresses.http}/v1/card", params={"model": "fake-model@1"}).json()
        unknown = httpx.get(f"{server.addresses.http}/v1/card", params={"model": "other"})
    assert named == answer
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (answer["model"], answer["version"], answer["variant"]) == ("fake-model", "1", "cpu-fp32")
    assert msgspec.convert(answer["card"], ModelCard) == CARD
    assert msgspec.convert(answer["variants"], tuple[VariantInfo, ...]) == VARIANTS
    assert msgspec.convert(answer["calibration"], Calibration) == calibration
