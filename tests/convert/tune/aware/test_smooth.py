"""Factors of smoothing by gradients: hand-worked cases, a measured error, and the graph that `quantize` writes with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fletcher.convert.export.export import export
from fletcher.convert.export.options import ExportOptions
from fletcher.convert.reference.load import load_witness
from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.aware.insert import make_aware
from fletcher.convert.tune.aware.modules import QuantizedLinear
from fletcher.convert.tune.aware.product import Rounding, code_rows
from fletcher.convert.tune.aware.smooth import (
    Influence,
    Smoothing,
    expected_errors,
    least_errors,
    measure_influence,
    refinable,
    refine_smoothing,
)
from fletcher.convert.tune.aware.ties import settled_vectors
from fletcher.convert.tune.models.load import save_model
from fletcher.quantize.plan import QuantizationPlan, plan_quantization
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Artifact

from .test_exactness import recipe_of

TEXTS = list(SENTENCES[:24])

EVEN, GELU = Rounding(127, None, None), Rounding(127, 0.17, None)


def aware_model(artifact: Artifact, checkpoint: Path) -> tuple[Any, QuantizationPlan]:
    """Return a model with quantized layers, and their plan."""
    plan = plan_quantization(artifact, recipe_of("int8-per-token"), list(SENTENCES))
    model = load_witness(checkpoint, artifact.manifest.card).model
    make_aware(model, model[0].model.get_input_embeddings(), plan)
    return model, plan


def test_columns_of_constant_size_get_their_size_as_factor() -> None:
    """With elements of ±a the row's scale is max(a / f) / 127: a factor above a only amplifies that column's error."""
    sizes = torch.tensor([1.0, 4.0, 0.25])
    signs = torch.sign(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)))
    influence = Influence(signs * sizes, torch.rand(64, 3) + 0.5, torch.zeros(5))
    factors = least_errors(influence, torch.ones(3, 5), EVEN).factors
    assert (factors / factors.prod() ** (1 / 3)).numpy() == pytest.approx(sizes.numpy(), rel=0.1)


def test_a_column_that_moves_no_vector_decides_no_scale() -> None:
    """Its factor grows, so that the other column has all codes: the error becomes that of the other column alone."""
    rows = torch.tensor([[8.0, 1.0], [-8.0, 1.0], [8.0, -1.0]])
    influence = Influence(rows, torch.tensor([[0.0, 1.0]]).repeat(3, 1), torch.zeros(4))
    found = least_errors(influence, torch.ones(2, 4), EVEN)
    error, _ = expected_errors(influence, torch.ones(2, 4), EVEN, found)
    assert float(error) == pytest.approx(3 * (1 / 127) ** 2 / 24, rel=0.01)


def test_constants_of_a_column_are_subtracted() -> None:
    """Elements of 3 ± 1 and ±1: with a center of 3 both columns have the same size, and errors are those of ±1."""
    signs = torch.sign(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))
    influence = Influence(signs + torch.tensor([3.0, 0.0]), torch.ones(64, 2) / 64, torch.zeros(4))
    found = least_errors(influence, torch.ones(2, 4), EVEN, centered=True)
    assert found.center.numpy() == pytest.approx([3.0, 0.0], abs=0.1)
    error, _ = expected_errors(influence, torch.ones(2, 4), EVEN, found)
    assert float(error) == pytest.approx(2 * (1 / 127) ** 2 / 24, rel=0.05)


def test_factors_of_gelu_are_at_least_one() -> None:
    """Smaller ones would move its floor of -0.17 below the bound of the codes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.gelu(torch.randn(256, 6, generator=generator) * torch.tensor([0.01, 0.1, 1, 2, 4, 30]))
    influence = Influence(rows, torch.ones(256, 6) / 256, torch.ones(3) * 1e-6)
    weight = torch.randn(6, 3, generator=generator)
    found = least_errors(influence, weight, GELU)
    assert float(found.factors.min()) >= 1
    assert float(found.factors[5]) > 3 * float(found.factors[2])
    plain, refined = (
        float(expected_errors(influence, weight, GELU, one)[0])
        for one in (Smoothing(torch.ones(6), torch.zeros(6)), found)
    )
    assert refined < plain / 3
    codes, scales = code_rows(rows / found.factors, GELU, None)
    assert (codes * scales - 0.17).numpy() == pytest.approx((rows / found.factors).numpy(), abs=float(scales.max()) / 2)


def test_expected_errors_are_those_that_rounding_makes(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    """1 - cosine with float32 is measured with rounded activations of one product, for every product."""
    artifact = Artifact.open(tiny_artifact)
    model, _plan = aware_model(artifact, tiny_checkpoint)
    groups: dict[str, list[QuantizedLinear]] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.exact = True
            groups.setdefault(module.product, []).append(module)
    assert len(groups) == 8
    exact = _vectors(model)
    texts = list(SENTENCES)
    influences = measure_influence(model, list(groups.values()), texts)
    ratios = []
    for layers, influence in zip(groups.values(), influences, strict=True):
        assert influence is not None
        weight = torch.cat([layer.weight for layer in layers]).detach().T
        factors = layers[0].factors
        factors = torch.ones(len(weight)) if factors is None else factors
        smoothing = Smoothing(factors, torch.zeros(len(weight)))
        expected, _ = expected_errors(influence, weight, layers[0].rounding, smoothing)
        for layer in model.modules():
            if isinstance(layer, QuantizedLinear):
                layer.exact = layer not in layers
        found = _vectors(model, activations_alone=layers)
        ratios.append(float((1 - (found * exact).sum(axis=1)).mean()) / float(expected))
    assert np.median(ratios) == pytest.approx(1, abs=0.3)
    assert min(ratios) > 0.4
    assert max(ratios) < 2.5


def _vectors(model: Any, activations_alone: list[QuantizedLinear] | None = None) -> Any:
    """Return vectors in float64, with rounded activations and unrounded weights of some layers."""

    def forward(layer: QuantizedLinear) -> Any:
        def compute(values: Tensor) -> Tensor:
            result = layer.represented(values) @ layer.smoothed() + layer.bias
            return result.reshape(*values.shape[:-1], -1)

        return compute

    layers = activations_alone or []
    for layer in layers:
        layer.exact = False
        layer.forward = forward(layer)  # type: ignore[method-assign]
    with torch.no_grad():
        found = np.stack([model.encode(text, prompt="") for text in SENTENCES]).astype(np.float64)
    for layer in layers:
        del layer.forward
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_a_refined_model_is_nearer_to_float_and_its_graph_is_the_same(
    tiny_artifact: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The vectors of float32 stay, those of INT8 come nearer, and the written graph has the vectors of the layers."""
    artifact = Artifact.open(tiny_artifact)
    model, plan = aware_model(artifact, tiny_checkpoint)
    plain = load_witness(tiny_checkpoint, artifact.manifest.card).model
    with torch.no_grad():
        expected = np.stack([plain.encode(text, prompt="") for text in SENTENCES])
        before = np.stack([model.encode(text, prompt="") for text in SENTENCES])
    activations = refine_smoothing(model, plan, TEXTS)
    assert set(activations) == {product.name for product in plan.products}
    with torch.no_grad():
        after = np.stack([model.encode(text, prompt="") for text in SENTENCES])
    errors = [(1 - np.einsum("nd,nd->n", one, expected)).mean() for one in (before, after)]
    assert errors[1] < errors[0]
    save_model(model, tmp_path / "checkpoint")
    export(str(tmp_path / "checkpoint"), tmp_path / "float32", ExportOptions(verify=False))
    quantize(
        tmp_path / "float32",
        tmp_path / "int8",
        plan.recipe,
        texts=TEXTS,
        calibration=TEXTS,
        activations=activations,
    )
    settled = settled_vectors(model, Artifact.open(tmp_path / "int8"), TEXTS)
    assert np.abs(settled.layers - settled.graph).max() < 1e-4
    assert settled.others == 0


def test_products_that_read_the_same_value_share_their_factors(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    """A graph divides a value once for all its readers."""
    model, plan = aware_model(Artifact.open(tiny_artifact), tiny_checkpoint)
    assert plan.activations is not None
    first, second = (product.name for product in plan.products if product.name.endswith("up"))
    joined = replace(plan, activations={**plan.activations, second: plan.activations[first]})
    activations = refine_smoothing(model, joined, TEXTS)
    assert activations[first] is activations[second]


def test_recipes_whose_factors_gradients_choose(tiny_artifact: Path) -> None:
    """Outlier columns and corrections of the mean follow from statistics with the recipe's own factors."""
    names = ("int8-per-token", "int8-per-token-reduced", "mixed", "int8-static", "all-parts")
    artifact = Artifact.open(tiny_artifact)
    plans = {name: plan_quantization(artifact, recipe_of(name), list(SENTENCES)) for name in names}
    assert [name for name, plan in plans.items() if refinable(plan)] == ["int8-per-token", "int8-per-token-reduced"]
