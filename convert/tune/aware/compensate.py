"""`compensate_rounding`: weights whose rounding changes the products of real activations least, before the training (GPTQ).

Each input's weights are rounded in turn, and the inputs that follow take over the error, as far as their activations are
correlated with it (Frantar et al., arXiv:2210.17323). The weights are then those that the codes represent, so the training
begins with these codes. The module is imported by a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...reference.witness import one_thread
from .modules import QuantizedLinear
from .product import code_columns

__all__ = ["activation_products", "compensate_rounding", "compensated"]

#: Share of the mean squared activation that is added to each input's, as in the paper: few texts do not show all directions.
DAMPING = 0.01

#: Inputs whose errors are added to the inputs after them in one product.
BLOCK = 128


def compensate_rounding(model: Any, texts: Sequence[str]) -> None:
    """Round the weights of the quantized layers in place.

    Args:
        model: a model of sentence-transformers whose layers `make_aware` replaced, with its weights before the training.
        texts: training texts.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    with torch.no_grad():
        found = activation_products(model, texts)
        with one_thread():  # many threads wait for each other longer than a row of weights takes
            for name, products in found.items():  # an expert that no text reaches has none
                layer = layers[name]
                layer.set_smoothed(compensated(layer.smoothed(), products, layer.rounding.limit))


def activation_products(model: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Return the sum over all tokens of the outer product of a layer's rounded activations, (in, in), by the layer's name."""
    sums: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def remember(_: nn.Module, inputs: tuple[dict[str, Tensor], ...]) -> None:
        nonlocal mask
        mask = inputs[0].get("attention_mask")

    def add(name: str, layer: QuantizedLinear, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach()
        if mask is not None and values.shape[:-1] == mask.shape:  # padding is not an activation
            values = values[mask.bool()]
        rows = layer.represented(values)
        found = rows.T @ rows
        sums[name] = sums[name] + found if name in sums else found

    hooks = [model[0].register_forward_pre_hook(remember)]
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            hooks.append(module.register_forward_pre_hook(partial(add, name)))
    try:
        model.encode(list(texts), prompt="", batch_size=32, show_progress_bar=False)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def compensated(weight: Tensor, products: Tensor, limit: int) -> Tensor:
    """Return the values of a weight's codes, float32, (in, out). Each column keeps the scale of its own largest element.

    Args:
        weight: the weight, float32, (in, out).
        products: sum over all rows of activations of their outer product, (in, in).
        limit: largest code, 127 or 63.
    """
    count = len(weight)
    hessian = products.double()
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny))
    shares = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True).float()
    _, scales = code_columns(weight, limit)
    rest = weight.clone(memory_format=torch.contiguous_format)
    codes = torch.empty_like(rest)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        errors = torch.empty_like(rest[start:end])
        for row in range(start, end):
            codes[row] = torch.clamp(torch.round(rest[row] / scales), -limit, limit)
            errors[row - start] = (rest[row] - codes[row] * scales) / shares[row, row]
            rest[row + 1 : end] -= shares[row, row + 1 : end, None] * errors[row - start]
        rest[end:] -= shares[start:end, end:].T @ errors
    # A column's scale follows from its largest element, which therefore must keep the largest code.
    largest, columns = weight.abs().argmax(dim=0), torch.arange(weight.shape[1], device=weight.device)
    lost = codes.abs().amax(dim=0) < limit
    codes[largest[lost], columns[lost]] = limit * torch.sign(weight[largest[lost], columns[lost]])
    return codes * scales
