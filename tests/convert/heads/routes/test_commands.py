"""Commands on models whose texts choose a route or an adapter: comparison by layers, quality, reduction, training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.quality.inputs import Corpus, make_texts
from fletcher.convert.quality.options import QualityOptions
from fletcher.convert.quality.quality import measure_quality
from fletcher.convert.quality.reduction.reduce import ReduceOptions, reduce_artifact
from fletcher.convert.tune.models.load import fetch_trainable
from fletcher.model_zoo.progress import SILENT
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import CheckpointError, InputError, OptionError

from ...checkpoint import test_task_adapters as adapters
from ..tiny import WORDS
from .routers import save_two

TEXTS = [" ".join(pair) for pair in itertools.islice(itertools.permutations(WORDS, 3), 0, 6000, 50)]


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model with two encoders, and the artifact of its queries."""
    folder = save_two(tmp_path_factory.mktemp("two"))
    export(str(folder), folder.parent / "query", task="query")
    return folder.parent / "query"


@pytest.fixture(scope="module")
def jina(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapters.write(tmp_path_factory.mktemp("jina"))[0]


def test_layers_of_several_tasks_are_refused_with_the_commands(shared: Path, jina: Path, tmp_path: Path) -> None:
    export(str(jina), tmp_path / "jina")
    cases: tuple[tuple[Path, Path, list[str]], ...] = (
        (shared.parent / "artifact", shared, ["query", "document"]),
        (tmp_path / "jina", jina, adapters.TASKS),
    )
    for artifact, checkpoint, (first, *others) in cases:
        with pytest.raises(InputError) as caught:
            verify_layers(artifact)
        message = str(caught.value)
        assert f"`fletcher-convert model export {checkpoint} -o OUT-{first} --task {first}`" in message
        assert (
            f"`fletcher-convert model verify OUT-{first} --layers`, and the same for {' and '.join(others)}" in message
        )
        assert f"`fletcher-convert model verify {artifact}`" in message


def test_quality_of_one_route_takes_its_input_type(shared: Path, query: Path) -> None:
    texts = make_texts(Corpus(tuple(map(str, range(len(TEXTS)))), tuple(TEXTS), (None,) * len(TEXTS)), name="texts")
    assert measure_quality(query, texts).report.input_type == "query"
    assert measure_quality(shared.parent / "artifact", texts).report.input_type == "document"
    with pytest.raises(OptionError, match="are those of query alone"):
        measure_quality(query, texts, QualityOptions(input_type="document"))


@pytest.mark.parametrize("kind", ["route", "task"])
def test_a_reduction_of_one_route_or_task_keeps_it(query: Path, jina: Path, tmp_path: Path, kind: str) -> None:
    if kind == "route":
        artifact = query
    else:
        artifact = tmp_path / "one"
        export(str(jina), artifact, task="retrieval.query")
    # Its vectors are compared with the projected ones of the original artifact.
    reduced = reduce_artifact(artifact, tmp_path / "reduced", TEXTS, ReduceOptions(dimensions=6))
    assert reduced.status == "verified"
    assert Artifact.open(reduced.path).manifest.card.input_type == "query"


def test_a_reduction_keeps_every_route(shared: Path, tmp_path: Path) -> None:
    reduced = reduce_artifact(shared.parent / "artifact", tmp_path / "reduced", TEXTS, ReduceOptions(dimensions=6))
    model: Any = SentenceTransformer(str(reduced.checkpoint), device="cpu")
    with Encoder.load(reduced.path, provider="mlas", workers=1) as encoder:
        for kind in ("query", "document"):
            expected = np.stack([getattr(model, f"encode_{kind}")(text) for text in TEXTS[:5]])
            np.testing.assert_allclose(encoder.embed(TEXTS[:5], input_type=kind).vectors, expected, rtol=0, atol=2e-5)


def test_a_training_of_routes_or_of_tasks_is_refused(shared: Path, jina: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has a Router \(query, document\), .*`router_mapping`"):
        fetch_trainable(str(shared), SILENT)
    with pytest.raises(CheckpointError, match=r"has adapters for retrieval\.query, .* jina_embeddings_v3"):
        fetch_trainable(str(jina), SILENT)
