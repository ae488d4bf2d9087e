"""`make_aware`: replaces the layers of a torch model whose products a plan quantizes.

The matrices of the graph are found in the model by their values, because a graph may join several layers into one product
(query, key and value), and each family names its layers in another way. The module is imported by a training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from torch import nn

from fletcher.quantize.plan import PlannedProduct, QuantizationPlan
from fletcher.runtime.errors import InputError

from .modules import QuantizedEmbedding, QuantizedLinear

__all__ = ["make_aware"]


def make_aware(model: nn.Module, table: nn.Embedding, plan: QuantizationPlan) -> list[str]:
    """Replace layers in place, and return the names of the layers that are quantized now.

    Args:
        model: a model of sentence-transformers with the weights that the plan's graph has.
        table: its word table.
        plan: the plan.

    Raises:
        InputError: a quantized matrix is not the weight of linear layers of the model.
    """
    products = [_Columns(product) for product in plan.products]
    replaced = []
    for parent, attribute, name, linear in list(_linears(model)):
        rows = Counter(row.tobytes() for row in np.ascontiguousarray(linear.weight.detach().cpu().numpy()))
        found = next((one for one in products if one.take(rows)), None)
        if found is not None:
            setattr(parent, attribute, QuantizedLinear(linear, found.product, plan.recipe))
            replaced.append(name)
    if missing := [one.product.name for one in products if one.left]:
        raise InputError(
            f"the recipe {plan.recipe.name} quantizes {', '.join(missing[:3])}, whose weights are not those of separate "
            "linear layers in torch (layers share weights, or the conversion changes them): exclude them in the recipe, or "
            "tune without quantization"
        )
    if plan.table:
        for parent, attribute, name, module in list(_children(model)):
            if module is table:
                setattr(parent, attribute, QuantizedEmbedding(table))
                replaced.append(name)
    return replaced


class _Columns:
    """`_Columns`: columns of a product's weight that no layer has claimed yet."""

    def __init__(self, product: PlannedProduct) -> None:
        self.product = product
        self._inputs = product.weight.shape[0]
        self._columns = Counter(column.tobytes() for column in np.ascontiguousarray(product.weight.T))

    @property
    def left(self) -> int:
        """Number of these columns."""
        return self._columns.total()

    def take(self, rows: Counter[bytes]) -> bool:
        """Claim the columns of a layer, and return whether all of them were there."""
        if not rows <= self._columns:
            return False
        self._columns -= rows
        return True


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
    """Yield parent, attribute, dotted name and module of each module inside the model."""
    for prefix, parent in model.named_modules():
        for attribute, child in parent.named_children():
            yield parent, attribute, f"{prefix}.{attribute}".lstrip("."), child


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Linear]]:
    for parent, attribute, name, child in _children(model):
        if isinstance(child, nn.Linear) and not isinstance(child, QuantizedLinear):
            yield parent, attribute, name, child
