"""Rounding of weights whose errors cancel: hand-worked cases, and the products of a model's own activations."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fletcher.convert.reference.load import load_witness
from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.aware.compensate import activation_products, compensate_rounding, compensated
from fletcher.convert.tune.aware.insert import make_aware
from fletcher.convert.tune.aware.modules import QuantizedLinear
from fletcher.quantize.graph.rounding import round_columns
from fletcher.quantize.plan import plan_quantization
from fletcher.runtime import Artifact

from .test_exactness import recipe_of

TEXTS = list(SENTENCES[:24])


def test_the_second_input_takes_over_the_error_of_the_first() -> None:
    """Codes 10.4, 10.4 and 127 with inputs whose mean product is 0.8 (0.8 / 1.01 with the damping).

    The first input becomes 10. Its error is 0.4, so the second one becomes 10.4 + 0.4 * 0.8 / 1.01 = 10.72, rounded 11.
    """
    weight = torch.tensor([[10.4], [10.4], [127.0]])
    products = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert compensated(weight, products, 127).T.tolist() == [[10.0, 11.0, 127.0]]


def test_errors_of_independent_inputs_stay() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32))
    for limit in (127, 63):
        expected = round_columns(weight.numpy(), limit=limit).floats
        assert compensated(weight, torch.eye(300), limit).numpy() == pytest.approx(expected, abs=1e-7)


def test_the_codes_of_the_result_are_its_own() -> None:
    """The largest element keeps its code, although errors reach it, so that the scale of the column stays."""
    generator = np.random.default_rng(0)
    rows = (generator.normal(size=(500, 8)) @ generator.normal(size=(8, 200))).astype(np.float32)
    weight = generator.normal(size=(200, 50)).astype(np.float32)
    found = compensated(torch.from_numpy(weight), torch.from_numpy(rows.T @ rows), 127).numpy()
    nearest = round_columns(weight)
    assert np.abs(found).max(axis=0) == pytest.approx(np.abs(weight).max(axis=0), rel=1e-6)
    assert round_columns(found).floats == pytest.approx(found, abs=1e-6)
    errors = [np.square(rows @ (one - weight)).sum() for one in (found, nearest.floats)]
    assert errors[0] < errors[1] / 10  # inputs with eight independent directions leave much to cancel


def test_inputs_that_are_always_zero() -> None:
    assert compensated(torch.tensor([[0.3], [1.0]]), torch.zeros(2, 2), 127).T.tolist() == [
        pytest.approx([38 / 127, 1.0])
    ]


@pytest.mark.parametrize("name", ["int8-per-token", "all-parts", "int8-static"])
def test_products_of_a_model_come_nearer_to_float(name: str, tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    """The layers get the activations of float32 before and after; outlier columns keep their weights."""
    artifact, recipe = Artifact.open(tiny_artifact), recipe_of(name)
    plan = plan_quantization(artifact, recipe, list(SENTENCES))
    model = load_witness(tiny_checkpoint, artifact.manifest.card).model
    given: dict[str, Tensor] = {}

    def keep(path: str, _: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.setdefault(path, inputs[0].detach())

    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(partial(keep, path))
    with torch.no_grad():
        model.encode(TEXTS[5], prompt="")
    make_aware(model, model[0].model.get_input_embeddings(), plan)
    layers = {path: module for path, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    weights = {path: layer.weight.detach().clone() for path, layer in layers.items()}

    def losses() -> dict[str, float]:
        found = {}
        with torch.no_grad():
            for path, layer in layers.items():
                rows, weight = layer.represented(given[path]), layer.smoothed()
                columns = torch.from_numpy(round_columns(weight.numpy(), limit=layer.rounding.limit).floats)
                original = weights[path].T if layer.factors is None else weights[path].T * layer.factors[:, None]
                found[path] = float((rows @ (columns - original)).square().mean())
        return found

    before = losses()
    compensate_rounding(model, TEXTS)
    after = losses()
    assert len(layers) == 12
    assert np.mean([after[path] < before[path] for path in layers]) > 0.8
    assert sum(after.values()) < 0.8 * sum(before.values())
    if name == "all-parts":
        for path, layer in layers.items():
            assert layer.loud is not None
            assert (layer.weight[:, layer.loud] == weights[path][:, layer.loud]).all()
            assert (layer.weight != weights[path]).any()


def test_padding_is_not_an_activation(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    """A batch of one text and a long one gives the weights of the two texts by themselves."""
    artifact, recipe = Artifact.open(tiny_artifact), recipe_of("int8-per-token")
    plan = plan_quantization(artifact, recipe, list(SENTENCES))
    texts = ["a cat", " ".join(SENTENCES[:4])]
    sums: list[dict[str, Tensor]] = []
    for batches in ([texts], [[text] for text in texts]):
        model = load_witness(tiny_checkpoint, artifact.manifest.card).model
        make_aware(model, model[0].model.get_input_embeddings(), plan)
        found: dict[str, Tensor] = {}
        for batch in batches:
            for path, products in activation_products(model, batch).items():
                found[path] = found[path] + products if path in found else products
        sums.append(found)
    assert len(sums[0]) == 12
    for path, products in sums[0].items():
        assert products.numpy() == pytest.approx(sums[1][path].numpy(), rel=1e-3, abs=1e-2)
