"""`IntegerProduct`: the arithmetic of a quantized product in torch, with the gradients of the product in float.

The forward computation has the steps of `quantize.graph.products`, in the same order of float32 operations. The backward
computation takes rounding as the identity (straight-through estimator, arXiv:1308.3432). A training imports the module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fletcher.quantize.graph.activations import Steps

__all__ = [
    "GraphCodes",
    "IntegerProduct",
    "Rounding",
    "code_columns",
    "code_rows",
    "round_columns_through",
    "round_rows_through",
    "row_scales",
]

#: Smallest row maximum, as in the graph.
TINY = 1e-20

#: Smallest largest element of a column or a row of weights, as in `quantize.graph.rounding`.
TINY_WEIGHT = float(np.finfo(np.float32).tiny)

#: Largest distance from the border between two codes, in steps, at which float32's rounding may choose either code. Sums in
#: another order differ by about 1e-6 of a row's largest element, which is 127 or 255 steps.
TIE = 1e-3


@dataclass(frozen=True, slots=True)
class Rounding:
    """`Rounding`: settings of a quantized product.

    Attributes:
        limit: largest code of a weight, 127 or 63.
        bound: largest distance of the activations below zero; None for even steps around zero.
        steps: range of the activations that is the same for all rows; None for a scale per row.
    """

    limit: int
    bound: float | None
    steps: Steps | None

    @property
    def zero(self) -> int:
        """Code of the value 0 in the graph, or of `-bound`."""
        if self.steps is not None:
            return self.steps.zero
        return 128 if self.bound is None else 0

    def shift(self, rows: Tensor) -> Tensor:
        """Return the bound beside rows, float32, ()."""
        return torch.tensor(self.bound, dtype=torch.float32, device=rows.device)


@dataclass(slots=True)
class GraphCodes:
    """`GraphCodes`: codes that a graph computed for the rows of a product, which decide where both codes are right.

    Attributes:
        codes: codes without their zero point, float32, (rows, in).
        pooled: row of the codes among the layer's, where the graph computes that of the pooled token alone; 0 or -1.
        ties: number of codes that were taken from the graph, because the value lies between both.
        others: number of codes that differ although the value does not lie between them.
    """

    codes: Tensor
    pooled: int = 0
    ties: int = 0
    others: int = 0

    def settle(self, steps: Tensor, own: Tensor) -> Tensor:
        """Return codes that are the graph's where the value lies between the graph's and the own one.

        Args:
            steps: values in steps, before the rounding, (rows, in).
            own: their codes, (rows, in).
        """
        if len(self.codes) < len(own):
            settled = own.clone()
            settled[self.pooled] = self._settle(steps[self.pooled][None], own[self.pooled][None])[0]
            return settled
        return self._settle(steps, own)

    def _settle(self, steps: Tensor, own: Tensor) -> Tensor:
        different = self.codes != own
        tied = different & ((steps - (self.codes + own) / 2).abs() <= TIE) & ((self.codes - own).abs() == 1)
        self.ties += int(tied.sum())
        self.others += int((different & ~tied).sum())
        return torch.where(tied, self.codes, own)


def code_columns(weight: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the codes, (in, out), and the scales, (out,), of a weight."""
    largest = weight.abs().amax(dim=0).clamp_min(TINY_WEIGHT)
    scales = largest / torch.tensor(limit, dtype=torch.float32, device=weight.device)
    return torch.clamp(torch.round(weight / scales), -limit, limit), scales


def code_rows(rows: Tensor, rounding: Rounding, graph: GraphCodes | None) -> tuple[Tensor, Tensor]:
    """Return codes without their zero point, (rows, in), and the scale of each row, (rows, 1), or of all, ()."""
    if (range_ := rounding.steps) is not None:
        scale = torch.tensor(range_.scale, dtype=torch.float32, device=rows.device)
        steps, least, most = rows / scale, range_.least - range_.zero, range_.least + 255 - range_.zero
    elif rounding.bound is not None:
        scale = row_scales(rows, rounding)
        steps, least, most = (rows + rounding.shift(rows)) / scale, 0, 255
    else:
        scale = row_scales(rows, rounding)
        steps, least, most = rows / scale, -128, 127
    codes = torch.clamp(torch.round(steps), least, most)
    return codes if graph is None else graph.settle(steps, codes), scale


def row_scales(rows: Tensor, rounding: Rounding) -> Tensor:
    """Return the scale of each row, (rows, 1): its largest element in 255 steps from the lower bound, or in 127 around 0."""
    if rounding.bound is not None:
        return (rows + rounding.shift(rows)).amax(dim=1, keepdim=True).clamp_min(TINY) * float(np.float32(1 / 255))
    return rows.abs().amax(dim=1, keepdim=True).clamp_min(TINY) * float(np.float32(1 / 127))


class IntegerProduct(torch.autograd.Function):
    """`IntegerProduct`: the product of quantized activations and a quantized weight, (rows, in) by (in, out)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, rounding: Rounding, graph: GraphCodes | None = None) -> Tensor:
        """Return the product, float32, (rows, out).

        Args:
            ctx: keeps the codes for `backward`.
            rows: activations, float32, (rows, in).
            weight: weight in float32, (in, out).
            rounding: settings.
            graph: codes of a graph for these rows, which decide ties; None to round without them.
        """
        codes, scale = code_rows(rows, rounding, graph)
        columns, column_scales = code_columns(weight, rounding.limit)
        product = (codes @ columns) * column_scales * scale
        if rounding.bound:
            product = product - rounding.bound * (columns * column_scales).sum(dim=0)
        inside = None
        if (steps := rounding.steps) is not None:  # a value beyond the range has no gradient
            low, high = (steps.scale * (code - steps.zero) for code in (steps.least - 0.5, steps.least + 255.5))
            inside = (rows >= low) & (rows <= high)
        ctx.save_for_backward(codes, scale, columns, column_scales, inside)
        ctx.bound = rounding.bound or 0.0
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of the activations and of the weight."""
        (gradient,) = gradients
        codes, scale, columns, column_scales, inside = ctx.saved_tensors
        rows = (gradient * column_scales) @ columns.T
        if inside is not None:
            rows = rows * inside
        return rows, (codes * scale - ctx.bound).T @ gradient, None, None


def round_columns_through(weight: Tensor, limit: int) -> Tensor:
    """Return the weight that the codes represent, with the gradient of the weight itself, (in, out)."""
    with torch.no_grad():
        codes, scales = code_columns(weight, limit)
        error = codes * scales - weight
    return weight + error


def round_rows_through(table: Tensor) -> Tensor:
    """Return rows of a table in bytes with a scale per row, with the gradient of the rows themselves, (..., columns)."""
    with torch.no_grad():
        scales = table.abs().amax(dim=-1, keepdim=True).clamp_min(TINY_WEIGHT) / 127
        error = torch.round(table / scales) * scales - table
    return table + error
