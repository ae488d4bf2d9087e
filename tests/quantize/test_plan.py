"""Plan of a quantization: the products and statistics that `quantize` uses, without torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.texts import SENTENCES
from fletcher.quantize.plan import plan_quantization
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Artifact


def test_the_plan_has_the_products_of_the_graph(tiny_artifact: Path) -> None:
    plan = plan_quantization(Artifact.open(tiny_artifact), load_recipe("int8-per-token"), list(SENTENCES))
    assert [product.name for product in plan.products][:4] == [
        "layers.0.attention.qkv",
        "layers.0.attention.output",
        "layers.0.feed_forward.up",
        "layers.0.feed_forward.down",
    ]
    assert plan.table
    # Gelu's values have a lower bound, so the recipe uses all 256 steps for them and does not smooth them.
    bounds = {product.name.rpartition(".")[2]: product.bound for product in plan.products}
    assert bounds == {"qkv": None, "output": None, "up": None, "down": pytest.approx(0.17)}
    smoothed = {
        product.name: product.activations.factors is not None for product in plan.products if product.activations
    }
    assert smoothed == {product.name: not product.name.endswith("down") for product in plan.products}


def test_given_statistics_replace_the_calibration(tiny_artifact: Path, tmp_path: Path) -> None:
    """The statistics of other texts give the graph that those texts would have given."""
    artifact, recipe = Artifact.open(tiny_artifact), load_recipe("int8-per-token")
    others = [text[::-1] for text in SENTENCES]
    plan = plan_quantization(artifact, recipe, others)
    quantize_by = partial(quantize, artifact, recipe=recipe, texts=SENTENCES[:8])
    given = quantize_by(tmp_path / "given", calibration=SENTENCES, activations=plan.activations)
    own = quantize_by(tmp_path / "own", calibration=others)
    calibrated = quantize_by(tmp_path / "calibrated", calibration=SENTENCES)
    weights = [
        np.fromfile(tmp_path / name / "weights.int8-per-token.safetensors", np.uint8)
        for name in ("given", "own", "calibrated")
    ]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    assert given.digest == own.digest != calibrated.digest
