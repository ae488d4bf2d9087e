"""Feed-forward parts of several experts on the target `cpu`: an expert computes the tokens that chose it, and no others.

The tokens' rows are sorted by expert, and cut into a block for each one. Of 8 experts with 2 for each token, this is a
quarter of the products.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ...architecture import Experts
from ...graph.builder import GraphBuilder
from ..shared.experts import emit_expert, emit_shares

__all__ = ["emit_experts"]


def emit_experts(graph: GraphBuilder, part: Experts, hidden: str, name: str) -> str:
    """Add the part.

    Args:
        graph: graph to add to.
        part: the part.
        hidden: packed hidden states, (tokens, hidden).
        name: prefix of the nodes' names.

    Returns:
        (tokens, hidden).
    """
    route, last = f"{name}/router", graph.constant([-1])
    shares = emit_shares(graph, part, hidden, name)
    best, chosen = graph.nodes(  # (tokens, top)
        "TopK", [shares, graph.constant([part.top])], f"{route}/best", [f"{route}/best", f"{route}/chosen"], axis=-1
    )
    numbers = graph.constant(np.arange(len(part.ups), dtype=np.int64))
    columns = graph.node("Unsqueeze", [chosen, last], f"{route}/columns")
    is_chosen = graph.node("Equal", [columns, numbers], f"{route}/is_chosen")  # (tokens, top, experts)
    flags = graph.node("Cast", [is_chosen], f"{route}/flags", to=TensorProto.INT64)
    of_token = graph.node("ReduceSum", [flags, graph.constant([1])], f"{route}/of_token", keepdims=0)
    of_expert = graph.node("Transpose", [of_token], f"{route}/of_expert", perm=(1, 0))  # (experts, tokens)
    counts = graph.node("ReduceSum", [of_expert, graph.constant([1])], f"{route}/counts", keepdims=0)

    # Tokens in the order of their experts, and the place of each token's row among them, by expert.
    flat = graph.node("Reshape", [of_expert, last], f"{route}/flat")
    cells = graph.node("NonZero", [flat], f"{route}/cells")
    cells = graph.node("Squeeze", [cells, graph.constant([0])], f"{route}/sorted_cells")
    sizes = graph.node("Shape", [of_expert], f"{route}/sizes")
    num_tokens = graph.node("Gather", [sizes, graph.constant(1)], f"{route}/num_tokens")
    token = graph.node("Mod", [cells, num_tokens], f"{route}/token")
    before = graph.node("CumSum", [flat, graph.constant(0)], f"{route}/before", exclusive=1)
    before = graph.node("Reshape", [before, sizes], f"{route}/before_by_expert")
    before = graph.node("Transpose", [before], f"{route}/before_by_token", perm=(1, 0))
    place = graph.node("GatherElements", [before, chosen], f"{route}/place", axis=1)  # (tokens, top)

    rows = graph.node("Gather", [hidden, token], f"{name}/experts/rows")  # (tokens · top, hidden)
    blocks = [f"{name}/experts.{index}/rows" for index in range(len(part.ups))]
    graph.nodes("Split", [rows, counts], f"{name}/experts/blocks", blocks, axis=0)
    results = [emit_expert(graph, part, index, block, name) for index, block in enumerate(blocks)]
    joined = graph.node("Concat", results, f"{name}/experts/joined", axis=0)
    own = graph.node("Gather", [joined, place], f"{name}/experts/of_token")  # (tokens, top, hidden)
    weights = graph.node("Unsqueeze", [best, graph.constant([1])], f"{name}/experts/weights")
    total = graph.node("MatMul", [weights, own], f"{name}/experts/weighted")  # (tokens, 1, hidden)
    total = graph.node("Squeeze", [total, graph.constant([1])], f"{name}/experts/total")
    if part.bias is None:
        return total
    return graph.node("Add", [total, graph.weight(part.bias)], f"{name}/with_bias")
