"""Recipes on a model that pools one token, whose last layer has a row for each text and not for each token."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fletcher.convert.texts import SENTENCES
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import Recipe, load_recipe
from fletcher.runtime import Encoder

from ...convert.layers.models import save_artifact

TEXTS = ["w5", "w9 w10", *(" ".join(f"w{(7 * i + j) % 50}" for j in range(i)) for i in range(1, 40)), *SENTENCES[:3]]


def _recipe(name: str) -> Recipe:
    """Return a built-in recipe, or one that leaves the activations as they are."""
    if name != "not smoothed":
        return load_recipe(name)
    return msgspec.structs.replace(load_recipe("int8-per-token"), name="plain", smoothquant=None)


def _vectors(path: Path, *batches: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with Encoder.load(path, provider="mlas") as encoder:
        return np.concatenate([encoder.embed(batch).vectors for batch in batches])


@pytest.mark.parametrize(("family", "mode"), [("bert", "cls"), ("qwen3", "lasttoken")])
def test_vectors_are_near_float32_and_those_per_token_do_not_depend_on_the_batch(
    tmp_path: Path, family: str, mode: str
) -> None:
    artifact = save_artifact(family, tmp_path, mode)
    reference = _vectors(artifact, TEXTS)
    for name in ("int8-per-token", "not smoothed", "int8-static", "int8-dynamic", "w8"):
        path = tmp_path / name
        quantize(artifact, path, msgspec.structs.replace(_recipe(name), min_cosine=0.5), texts=TEXTS)
        vectors = _vectors(path, TEXTS)
        # The bounds of tests/quantize/test_families.py for random weights; a range for all texts is coarser.
        least = 0.99 if name in ("int8-per-token", "not smoothed", "w8") else 0.9
        assert np.sum(vectors * reference, axis=1).min() >= least, name
        if name in ("int8-per-token", "not smoothed"):
            alone = _vectors(path, *([text] for text in TEXTS[:6]))
            np.testing.assert_allclose(np.sum(alone * vectors[:6], axis=1), 1, atol=1e-4)
