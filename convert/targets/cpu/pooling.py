"""Pooling of packed token vectors whose layout the graph computes itself."""

from __future__ import annotations

import numpy as np

from fletcher.model_zoo.card import PoolingMode

from ...graph.builder import GraphBuilder
from ..shared.pooling import emit_weighted_sum
from .packed_layout import PackedLayout

__all__ = ["emit_pooling"]


def emit_pooling(graph: GraphBuilder, mode: PoolingMode, hidden: str, layout: PackedLayout, name: str) -> str:
    """Add one vector per text from packed token vectors; special tokens count too, as in sentence-transformers."""
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
    return emit_weighted_sum(graph, weights, rectangle, name)
