"""`refine_smoothing`: factors of smoothing by which rounding changes the model's vectors least.

A recipe smooths by the largest elements alone. Here gradients tell how far each element of the activations moves the vector,
and descent finds the factors with the least expected error. Gelu's outputs get factors, too, from 1 on, so that their lower
bound holds, and outputs of norms are centered. The module is imported by a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from sentence_transformers.util import batch_to_device
from torch import Tensor
from torch.nn import functional

from fletcher.quantize.graph.activations import Activations
from fletcher.quantize.plan import QuantizationPlan

from .center import find_centers
from .modules import QuantizedLinear, exact
from .product import Rounding, row_scales

__all__ = [
    "Influence",
    "Smoothing",
    "expected_errors",
    "least_errors",
    "measure_influence",
    "refinable",
    "refine_smoothing",
]

#: Rows of activations in the sample, and rows of one step of the descent.
ROWS, BATCH = 4096, 1024

#: Random directions along which the change of a vector is measured.
PROBES = 2

#: Steps of the descent, and the first change of a factor's logarithm.
STEPS, RATE = 120, 0.03

#: Texts that show whether outputs of a norm can be moved.
TRIED = 2

#: Share of the weights' error that counts: the rest is canceled or trained away.
REMAINING = 0.25


@dataclass(frozen=True, slots=True)
class Influence:
    """`Influence`: a sample of the activations of a product, and their influence on the vectors.

    Attributes:
        rows: the activations, float32, (rows, in).
        gradients: squared gradient of a text's vector by each of them, times the share of the text's rows that the row stands
            for and divided by the texts, so that the sum over the rows is that of a text, (rows, in).
        outputs: squared gradient of a text's vector by the product, summed over the text's rows, (out,).
    """

    rows: Tensor
    gradients: Tensor
    outputs: Tensor


@dataclass(frozen=True, slots=True)
class Smoothing:
    """`Smoothing`: constants that are subtracted from the columns of activations, and divisors of what remains, (in,)."""

    factors: Tensor
    center: Tensor


def refinable(plan: QuantizationPlan) -> bool:
    """Return whether a plan smooths, all activations have a scale per token, and nothing else depends on their statistics."""
    recipe = plan.recipe
    per_token = all(product.scheme == "int8-per-token" for product in plan.products)
    return recipe.smoothquant is not None and per_token and not recipe.outliers and not recipe.bias_correction


def refine_smoothing(model: Any, plan: QuantizationPlan, texts: Sequence[str]) -> dict[str, Activations]:
    """Give the quantized layers the factors with the least expected error, and return statistics for `quantize` with them.

    Outputs of norms are moved, too, if that does not change the vectors of the model in float32.

    Args:
        model: a model of sentence-transformers whose layers `make_aware` replaced, with its weights before the training.
        plan: the plan of these layers, which is `refinable`.
        texts: training texts.
    """
    assert plan.activations is not None  # a recipe that smooths measures them
    refined = dict(plan.activations)
    groups = _by_input(model, plan)
    influences = measure_influence(model, groups, texts)
    centers = find_centers(model, groups, texts[:TRIED])
    for layers, influence, center in zip(groups, influences, centers, strict=True):
        if influence is None:  # an expert that no text reaches
            continue
        weight = torch.cat([layer.weight for layer in layers]).detach().T
        smoothing = least_errors(influence, weight, layers[0].rounding, centered=center is not None)
        if center is not None:
            center.move(smoothing.center)
        for layer in layers:
            layer.set_factors(smoothing.factors)
        found = replace(refined[layers[0].product], factors=smoothing.factors.cpu().numpy())
        refined |= {layer.product: found for layer in layers}
    return refined


def measure_influence(
    model: Any, groups: Sequence[list[QuantizedLinear]], texts: Sequence[str]
) -> list[Influence | None]:
    """Return the influence of the activations in float32 that each group of layers reads; None if no text reaches it.

    Args:
        model: a model of sentence-transformers whose layers `make_aware` replaced.
        groups: layers that read the same activations.
        texts: texts, which are computed one at a time.
    """
    records = [_Record(layers, len(texts)) for layers in groups]
    parameters = [one for one in model.parameters() if one.requires_grad]
    training = model.training
    generator = torch.Generator().manual_seed(0)
    try:
        model.requires_grad_(False).eval()
        for text in texts:
            features = batch_to_device(model.preprocess([text]), model.device)
            with exact(groups):
                vector = functional.normalize(model(features)["sentence_embedding"], dim=-1)
            for probe in range(PROBES):
                direction = torch.randn(vector.shape, generator=generator).to(vector.device)
                torch.autograd.backward(vector, direction, retain_graph=probe < PROBES - 1)
                for record in records:
                    record.square()
            for record in records:
                record.finish()
    finally:
        for record in records:
            record.close()
        for one in parameters:
            one.requires_grad_(True)
        model.train(training)
    return [record.influence() for record in records]


def expected_errors(
    influence: Influence, weight: Tensor, rounding: Rounding, smoothing: Smoothing
) -> tuple[Tensor, Tensor]:
    """Return the expected 1 - cosine of a text's vector from rounding the activations, and from rounding the weight.

    Errors of rounding are independent and uniform, and the weight is rounded to the nearest codes.

    Args:
        influence: activations and gradients.
        weight: the weight, (in, out).
        rounding: settings of the product.
        smoothing: constants and factors.
    """
    factors = smoothing.factors
    rows = (influence.rows - smoothing.center) / factors
    scales = row_scales(rows, rounding)
    activations = (scales.square() * (influence.gradients @ factors.square())[:, None]).sum()
    steps = (weight.abs() * factors[:, None]).amax(dim=0) / rounding.limit
    weights = rows.square().sum(dim=1).mean() * (steps.square() * influence.outputs).sum()
    # An error of a step has the variance 1/12, and 1 - cosine is half of the squared distance.
    return activations / 24, weights / 24


def least_errors(
    influence: Influence, weight: Tensor, rounding: Rounding, *, centered: bool = False, steps: int = STEPS
) -> Smoothing:
    """Return the smoothing with the least expected error.

    Args:
        influence: activations and gradients.
        weight: the weight, (in, out).
        rounding: settings of the product.
        centered: whether constants may be subtracted.
        steps: steps of the descent.
    """
    center = influence.rows.mean(dim=0) if centered else torch.zeros_like(influence.rows[0])
    logarithms = torch.zeros_like(center)
    if rounding.bound is None:
        logarithms = (influence.rows - center).abs().amax(dim=0).clamp_min(1e-5).log()
        logarithms -= logarithms.mean()
    least = -torch.inf if rounding.bound is None else 0.0  # smaller factors would move Gelu's floor below its bound
    variables = [logarithms.requires_grad_(), *([center.requires_grad_()] if centered else [])]
    optimizer = torch.optim.Adam(variables, lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, steps)
    count = len(influence.rows)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(count, (min(BATCH, count),), generator=generator).to(center.device)
        part = Influence(influence.rows[chosen], influence.gradients[chosen] * (count / len(chosen)), influence.outputs)
        smoothing = Smoothing(logarithms.clamp_min(least).exp(), center)
        activations, weights = expected_errors(part, weight, rounding, smoothing)
        optimizer.zero_grad()
        torch.autograd.backward((activations + REMAINING * weights).log())
        optimizer.step()
        schedule.step()
    return Smoothing(logarithms.detach().clamp_min(least).exp(), center.detach())


def _by_input(model: Any, plan: QuantizationPlan) -> list[list[QuantizedLinear]]:
    """Return the layers that read the same activations, and so have the same statistics: they share the factors, too."""
    assert plan.activations is not None
    groups: dict[int, list[QuantizedLinear]] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            groups.setdefault(id(plan.activations[module.product]), []).append(module)
    return list(groups.values())


class _Record:
    """`_Record`: hooks on layers that read the same activations."""

    def __init__(self, layers: list[QuantizedLinear], texts: int) -> None:
        self._layers, self._texts, self._kept = layers, texts, max(1, ROWS // texts)
        self._generator = torch.Generator().manual_seed(0)
        self._chosen = torch.zeros(0, dtype=torch.long)
        self._sum: Tensor | None = None  # of the layers' gradients of one direction
        self._squares: Tensor | None = None
        self._rows: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._outputs: dict[QuantizedLinear, Tensor] = {}
        self._hooks = []
        for layer in layers:
            self._hooks += [layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave)]

    def _enter(self, layer: QuantizedLinear, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        value = inputs[0]
        if layer is self._layers[0]:
            rows = value.detach().reshape(-1, layer.in_features)
            self._count = len(rows)
            self._chosen = torch.randperm(len(rows), generator=self._generator)[: self._kept].to(value.device)
            self._rows.append(rows[self._chosen])
        own = value.clone() if value.requires_grad else value.clone().requires_grad_()
        own.register_hook(self._add)  # type: ignore[no-untyped-call]
        return (own,)

    def _add(self, gradient: Tensor) -> None:
        found = gradient.reshape(-1, gradient.shape[-1])[self._chosen]
        self._sum = found if self._sum is None else self._sum + found

    def _leave(self, layer: QuantizedLinear, _: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(partial(self._keep, layer))  # type: ignore[no-untyped-call]

    def _keep(self, layer: QuantizedLinear, gradient: Tensor) -> None:
        squares = gradient.reshape(-1, gradient.shape[-1]).square().sum(dim=0) / (PROBES * self._texts)
        self._outputs[layer] = self._outputs[layer] + squares if layer in self._outputs else squares

    def square(self) -> None:
        """Add the squared gradients of one direction."""
        if self._sum is not None:
            squares = self._sum.square() / PROBES
            self._squares = squares if self._squares is None else self._squares + squares
            self._sum = None

    def finish(self) -> None:
        """Keep the gradients of one text."""
        if self._squares is not None:
            self._gradients.append(self._squares * (self._count / len(self._squares) / self._texts))
            self._squares = None

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def influence(self) -> Influence | None:
        """Return the sample; None if no text reached the product."""
        if not self._gradients:
            return None
        outputs = torch.cat([self._outputs[layer] for layer in self._layers])
        return Influence(torch.cat(self._rows), torch.cat(self._gradients), outputs)
