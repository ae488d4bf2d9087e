"""`QuantizedLinear` and `QuantizedEmbedding`: torch modules that share the weights of the modules which they replace.

Their state has the names of the replaced modules, so checkpoints of a training are checkpoints of the float model. The module
is imported by a training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fletcher.quantize.graph.activations import uneven_steps
from fletcher.quantize.plan import PlannedProduct
from fletcher.quantize.recipe import Recipe

from .product import GraphCodes, IntegerProduct, Rounding, code_rows, round_columns_through, round_rows_through

__all__ = ["QuantizedEmbedding", "QuantizedLinear", "exact"]


class QuantizedLinear(nn.Linear):
    """`QuantizedLinear`: a linear layer whose product is computed as the graph of a recipe computes it.

    Attributes:
        product: name of the matrix of its product, which may have the columns of several layers.
        graph: codes of a graph that decide ties in the next computation; None in training.
        exact: whether the next computation is that of the replaced layer.
    """

    multipliers: Tensor | None
    factors: Tensor | None
    loud: Tensor | None
    mean: Tensor | None
    coded: Tensor | None

    def __init__(self, linear: nn.Linear, product: PlannedProduct, recipe: Recipe) -> None:
        """Take the weight and the bias of a layer.

        Args:
            linear: the layer.
            product: scheme and statistics of its product.
            recipe: the recipe.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        activations = product.activations
        static = product.scheme == "int8-static"
        steps = None
        if static and activations is not None:
            steps = uneven_steps(activations.low, activations.high)
        self.rounding = Rounding(63 if recipe.reduced_range else 127, None if static else product.bound, steps)
        self._static = static
        self.product = product.name
        self.graph: GraphCodes | None = None
        self.exact = False
        kept: dict[str, NDArray[np.generic] | None] = dict.fromkeys(("multipliers", "factors", "loud", "mean", "coded"))
        if activations is not None and activations.multipliers is not None:
            factors = (
                np.ones(self.in_features, np.float32) if activations.factors is None else activations.factors.copy()
            )
            factors[activations.loud] = 0
            kept |= {"multipliers": activations.multipliers, "factors": factors}
            kept["loud"] = activations.loud if len(activations.loud) else None
        if activations is not None and recipe.bias_correction:
            kept |= {"mean": activations.mean, "coded": activations.coded}
        for name, values in kept.items():
            tensor = None if values is None else torch.from_numpy(np.ascontiguousarray(values)).to(linear.weight.device)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch
        """Return the result of the layer, (..., out)."""
        if self.exact:
            return functional.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)
        value, weight = self.divided(rows), self.smoothed()
        product = IntegerProduct.apply(value, weight, self.rounding, self.graph)  # type: ignore[no-untyped-call]
        if self.mean is not None and self.coded is not None:
            rounded = round_columns_through(weight, self.rounding.limit)
            product = product + self.mean @ weight - (self.coded if self._static else self.mean) @ rounded
        if self.bias is not None:
            product = product + self.bias
        if self.loud is not None:
            product = product + rows[:, self.loud] @ self.weight.T[self.loud]
        return torch.reshape(product, (*input.shape[:-1], self.out_features))

    def divided(self, rows: Tensor) -> Tensor:
        """Return the activations that are rounded, (rows, in): smoothing divides their columns, and outlier columns are 0."""
        return rows if self.multipliers is None else rows * self.multipliers

    def represented(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch
        """Return the values of the activations' codes, which the rounded weight is multiplied by, (rows, in)."""
        codes, scales = code_rows(self.divided(input.reshape(-1, self.in_features)), self.rounding, None)
        return codes * scales - (self.rounding.bound or 0.0)

    def smoothed(self) -> Tensor:
        """Return the weight that is rounded, (in, out): smoothing moved spread into it, and outlier columns are 0."""
        return self.weight.T if self.factors is None else self.weight.T * self.factors[:, None]

    def set_factors(self, factors: Tensor) -> None:
        """Set the divisors of the activations' columns, float32, (in,), of a layer without outlier columns."""
        self.multipliers, self.factors = 1 / factors, factors

    def set_smoothed(self, weight: Tensor) -> None:
        """Set the weight by the one that is rounded, (in, out). Outlier columns do not change."""
        if self.factors is None:
            self.weight.copy_(weight.T)
            return
        kept = self.factors == 0
        self.weight.copy_(
            torch.where(kept[:, None], self.weight.T, weight / self.factors.masked_fill(kept, 1)[:, None]).T
        )


class QuantizedEmbedding(nn.Embedding):
    """`QuantizedEmbedding`: a word table in bytes with a scale per row."""

    def __init__(self, table: nn.Embedding) -> None:
        """Take the weight of a table."""
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = table.padding_idx, None, 2.0
        self.scale_grad_by_freq, self.sparse = False, False
        self.weight = table.weight

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch
        """Return the rows of ids, (..., columns)."""
        return round_rows_through(functional.embedding(input, self.weight, self.padding_idx))


@contextmanager
def exact(groups: Sequence[Sequence[QuantizedLinear]]) -> Iterator[None]:
    """Let groups of layers compute as the replaced ones in a block."""
    layers = [layer for group in groups for layer in group]
    for layer in layers:
        layer.exact = True
    try:
        yield
    finally:
        for layer in layers:
            layer.exact = False
