"""What follows the encoder: pooling, projections, layer norm and L2 normalisation, inside the graph."""

from __future__ import annotations

import numpy as np

from fletcher.model_zoo.card import PoolingMode

from ..activations import emit_activation
from ..description import Architecture, Dense, Normalize, Pooling
from ..graph import GraphBuilder
from ..weights import Norm
from .blocks import emit_linear, emit_norm
from .layout import Layout

__all__ = ["emit_modules"]

#: torch.nn.functional.normalize's epsilon.
NORMALIZE_EPSILON = 1e-12


def emit_modules(graph: GraphBuilder, architecture: Architecture, hidden: str, layout: Layout) -> str:
    """sentence-transformers' modules, from packed token vectors to what leaves the graph."""
    value = hidden
    for index, module in enumerate(architecture.modules):
        name = f"modules.{index}"
        if isinstance(module, Pooling):
            pooled = [_emit_pooling(graph, mode, value, layout, f"{name}/{mode}") for mode in module.modes]
            value = pooled[0] if len(pooled) == 1 else graph.node("Concat", pooled, f"{name}/pooled", axis=1)
        elif isinstance(module, Dense):
            value = emit_linear(graph, module.linear, value, f"{name}/dense")
            value = emit_activation(graph, module.activation, value, f"{name}/activation")
        elif isinstance(module, Norm):
            value = emit_norm(graph, module, value, f"{name}/norm")
        elif isinstance(module, Normalize):
            value = _emit_normalize(graph, value, name)
    return value


def _emit_normalize(graph: GraphBuilder, value: str, name: str) -> str:
    norm = graph.node("ReduceL2", [value, graph.constant([1])], f"{name}/norm", keepdims=1)
    # The operator LpNormalization divides by the norm alone: a zero vector would become NaN.
    norm = graph.node("Max", [norm, graph.constant(NORMALIZE_EPSILON)], f"{name}/norm_floor")
    return graph.node("Div", [value, norm], f"{name}/normalized")


def _emit_pooling(graph: GraphBuilder, mode: PoolingMode, hidden: str, layout: Layout, name: str) -> str:
    """One vector a text from packed token vectors; every token counts, special ones too, as in sentence-transformers."""
    if mode == "cls":
        return graph.node("Gather", [hidden, layout.starts], name)
    if mode == "lasttoken":
        return graph.node("Gather", [hidden, layout.last], name)
    rectangle = graph.node("Gather", [hidden, layout.rectangle], f"{name}/rectangle")  # (texts, longest, hidden)
    if mode == "max":
        mask = graph.node("Unsqueeze", [layout.valid, graph.constant([2])], f"{name}/mask")
        lowest = graph.constant(float(np.finfo(np.float32).min))
        masked = graph.node("Where", [mask, rectangle, lowest], f"{name}/masked")
        return graph.node("ReduceMax", [masked, graph.constant([1])], name, keepdims=0)
    # The others are weighted sums: (texts, 1, longest) · (texts, longest, hidden).
    weights = graph.node("Cast", [layout.valid], f"{name}/valid", to=1)
    if mode == "weightedmean":
        ramp = graph.node("Add", [layout.steps, graph.constant(1)], f"{name}/ramp")
        weights = graph.node("Mul", [weights, graph.node("Cast", [ramp], f"{name}/ramp_float", to=1)], f"{name}/ramped")
    total = graph.node("ReduceSum", [weights, graph.constant([1])], f"{name}/total", keepdims=1)
    # sentence-transformers' floor: a text without a token becomes zeros, not NaN.
    total = graph.node("Max", [total, graph.constant(1e-9)], f"{name}/total_floor")
    if mode == "mean_sqrt_len_tokens":
        total = graph.node("Sqrt", [total], f"{name}/root")
    weights = graph.node("Div", [weights, total], f"{name}/weights")
    row = graph.node("Unsqueeze", [weights, graph.constant([1])], f"{name}/weights_row")
    summed = graph.node("MatMul", [row, rectangle], f"{name}/sum")
    return graph.node("Squeeze", [summed, graph.constant([1])], name)
