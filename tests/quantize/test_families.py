"""Recipes on families unlike BERT: experts, which may get no token, and scores by content and distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.convert.texts import SENTENCES
from fletcher.quantize.graph.matrices import matrices
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Encoder

from ..convert.families.rotary.test_nomic_bert import EXPERTS, HIDDEN, VOCABULARY, Nomic
from ..convert.layers.models import export_mean, save_artifact
from ..convert.verify.parity import save_tokenizer

pytestmark = pytest.mark.slow

#: Smallest cosine with float32, of random weights, by recipe.
RECIPES = {"w8": 0.998, "w4": 0.9, "int8-per-token": 0.99, "int8-dynamic": 0.9}


def _experts(folder: Path) -> Path:
    checkpoint = Nomic(**EXPERTS, n_positions=100).save(folder / "checkpoint")
    save_tokenizer(checkpoint, VOCABULARY)
    return export_mean(checkpoint, HIDDEN)


#: By name: function that writes an artifact, and patterns of matrices that it must have.
FAMILIES: Mapping[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "deberta-v2": (lambda folder: save_artifact("deberta-v2", folder), ("layers.0.attention.qkv",)),
    "experts": (_experts, ("layers.1.feed_forward.experts.4.up", "layers.1.feed_forward.experts.0.down")),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_of_each_recipe_are_near_float32(tmp_path: Path, family: str) -> None:
    make, names = FAMILIES[family]
    artifact = make(tmp_path)
    found = {matrix.name for matrix in matrices(artifact)}
    assert found.issuperset(names), sorted(found)
    # Texts of one token, to which most experts give none, and long ones.
    texts = [
        "w5",
        "w9 w10",
        *(" ".join(f"w{(7 * i + j) % 50}" for j in range(i)) for i in range(1, 40)),
        *SENTENCES[:3],
    ]
    reference = _vectors(artifact, texts)
    for name, limit in RECIPES.items():
        path = tmp_path / name
        quantize(artifact, path, load_recipe(name), texts=texts)
        vectors = _vectors(path, texts)
        assert np.sum(vectors * reference, axis=1).min() >= limit, name
        if name != "int8-per-token":
            continue  # kernels of other recipes, or their scales, depend on the batch
        alone = np.concatenate([_vectors(path, [text]) for text in texts[:4]])
        np.testing.assert_allclose(np.sum(alone * vectors[:4], axis=1), 1, atol=1e-4)


def _vectors(artifact: Path, texts: list[str]) -> Any:
    with Encoder.load(artifact, workers=1, provider="mlas") as encoder:
        return encoder.embed(texts).vectors
