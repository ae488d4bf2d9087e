"""`compensate_rounding`: weights whose rounding changes the products of real activations least, before the training (GPTQ).

Each input's weights are rounded in turn, and the inputs that follow take over the error, as far as their activations are
correlated with it (Frantar et al., arXiv:2210.17323). The weights are then those that the codes represent, so the training
begins with these codes. The module is imported by a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .modules import QuantizedLinear
from .product import code_columns

__all__ = ["compensate_rounding", "compensated"]

#: Share of the mean squared activation that is added to each input's, as in the paper: few texts do not show all directions.
DAMPING = 0.01

#: Inputs whose errors are added to the inputs after them in one product.
BLOCK = 128


def compensate_rounding(model: Any, texts: Sequence[str]) -> None:
    """Round the weights of the quantized layers in place.

    Args:
        model: a model of sentence-transformers whose layers `make_aware` replaced, with its weights before the training.
        texts: training texts, which are computed one at a time: padding is not an activation.
    """
    squares: dict[QuantizedLinear, Tensor] = {}

    def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, QuantizedLinear)  # the hook is only on these
        rows = layer.represented(inputs[0].detach())
        found = rows.T @ rows
        squares[layer] = squares[layer] + found if layer in squares else found

    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            for text in texts:
                model.encode(text, prompt="")
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        for layer, products in squares.items():  # an expert that no text reaches keeps its weights
            layer.set_smoothed(compensated(layer.smoothed(), products, layer.rounding.limit))


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
