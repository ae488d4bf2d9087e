"""Graphs for devices of a model whose texts choose their route: parity with sentence-transformers, and operators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from fletcher.convert.architecture import Architecture
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.routes.layout import routed_layout
from fletcher.convert.export.export import export
from fletcher.convert.heads import describe_model
from fletcher.convert.targets.emit import PRECISIONS
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ...targets.sessions import load_target, models_of
from ...targets.support.device_operators import check_operators
from ..tiny import DOCUMENTS
from .routers import save_shared

DEVICES = ("cuda", "tensorrt", "coreml")
ROUTES = ("query", "document")


class Routed:
    """`Routed`: a model with two routes, its texts of both of them, and sentence-transformers' vectors."""

    def __init__(self, folder: Path, view: Path) -> None:
        export(str(folder), folder.parent / "artifact", targets=("cpu", *DEVICES))
        self.artifact = Artifact.open(folder.parent / "artifact")
        self.card: ModelCard = self.artifact.manifest.card
        self.architecture: Architecture = describe_model(Checkpoint.open(view), self.card)
        model: Any = SentenceTransformer(str(folder), device="cpu")
        with Encoder.load(self.artifact.path, provider="mlas", workers=1) as encoder:
            tasks = [encoder.prepare(Texts(DOCUMENTS), EmbedOptions(input_type=route)) for route in ROUTES]
        both = Encodings.concatenate([task.encodings for task in tasks])
        mixed = np.arange(len(both)).reshape(2, -1).T.reshape(-1)  # texts of both routes in turn
        self.encodings = both.select(mixed)
        vectors = [getattr(model, f"encode_{route}")(text) for route in ROUTES for text in DOCUMENTS]
        self.expected: NDArray[np.float32] = np.stack(vectors)[mixed]


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    folder = save_shared(tmp_path_factory.mktemp("routes"), default_route="document")
    with routed_layout(folder) as view:
        yield Routed(folder, view)


@pytest.mark.parametrize("target", DEVICES)
def test_texts_of_both_routes_are_those_of_sentence_transformers(routed: Routed, tmp_path: Path, target: str) -> None:
    found = load_target(routed.architecture, routed.card, tmp_path, target, "fp32").run(routed.encodings)
    np.testing.assert_allclose(found, routed.expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("target", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_operators_are_those_of_the_targets_list(routed: Routed, tmp_path: Path, target: str, precision: Any) -> None:
    if precision not in PRECISIONS[target]:  # type: ignore[index]
        pytest.skip("CoreML has no bfloat16")
    for model in models_of(routed.architecture, routed.card, tmp_path, target, precision)[1]:
        check_operators(model, target)


def test_an_artifact_has_all_targets(routed: Routed) -> None:
    variants = routed.artifact.manifest.variants
    assert {variant.target for variant in variants} == {"cpu", *DEVICES}
    assert all("text_tasks" in [info.name for info in variant.inputs] for variant in variants)
