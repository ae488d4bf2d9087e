"""The trial load of models: memory, space, and problems by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.cluster_ray.measure import Measured, measure_models, peak_memory
from fletcher.serve.models.spec import ModelSpec

GIB = 2**30


def measure(artifact: Path, options: EmbedOptions | None = None, **spec: Any) -> Measured:
    specs = msgspec.json.encode([ModelSpec(path=str(artifact), provider="mlas", workers=1, **spec)])
    answer = measure_models(specs, None if options is None else msgspec.json.encode(options))
    return msgspec.json.decode(answer, type=Measured)


def test_what_a_model_needs(tiny_artifact: Path) -> None:
    options = EmbedOptions(dimensions=16)
    found = measure(tiny_artifact, options)
    with Encoder.load(tiny_artifact, provider="mlas", workers=1) as encoder:
        assert (found.problem, found.dimension, found.space) == ("", 32, encoder.info.spaces.of(options))
    assert found.digest == Artifact.open(tiny_artifact).digest
    assert 0 < found.memory <= peak_memory()
    assert found.gpu_memory == 0


def test_memory_of_a_gpu_is_the_difference(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10 * GIB, 7 * GIB])  # before the load, and after full batches
    module = "fletcher.serve.cluster_ray.measure"
    monkeypatch.setattr(f"{module}.this_gpus", lambda: SimpleNamespace(gpus=("one",)))
    monkeypatch.setattr(f"{module}.memory_info", lambda index: (next(free), 80 * GIB))
    assert measure(tiny_artifact).gpu_memory == 3 * GIB


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ({"digest": "0" * 64}, None, "0" * 64),
        ({"variant": "cuda-fp16"}, None, "cuda-fp16"),
        ({}, EmbedOptions(dimensions=5), "dimensions is 5"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(
    tiny_artifact: Path, spec: dict[str, Any], options: EmbedOptions | None, message: str
) -> None:
    assert message in measure(tiny_artifact, options, **spec).problem


def test_a_reranker_and_a_folder_that_is_none(tmp_path: Path) -> None:
    assert str(tmp_path) in measure(tmp_path).problem
