"""Feed-forward parts of several experts: the router, and the way in which every expert computes all tokens.

The shapes of the values do not depend on the router's choice, as graphs for devices need it. The target `cpu` has its own
way, in which an expert computes its tokens alone.
"""

from __future__ import annotations

from ...architecture import Experts
from ...graph.activations import emit_activation
from ...graph.builder import GraphBuilder
from .blocks import emit_linear

__all__ = ["emit_all_experts", "emit_expert", "emit_shares"]

#: Factor that makes each difference of two shares that a vector could show larger than 1.
FAR = 1e20


def emit_shares(graph: GraphBuilder, part: Experts, hidden: str, name: str) -> str:
    """Add the softmax of the router's product, (…, experts), in float32 as the models' own code."""
    scores = emit_linear(graph, part.router, hidden, f"{name}/router/scores")
    return graph.node("Softmax", [scores], f"{name}/router/shares", axis=-1)


def emit_expert(graph: GraphBuilder, part: Experts, index: int, rows: str, name: str) -> str:
    """Add down(activation(up(rows))) of an expert."""
    up = emit_linear(graph, part.ups[index], rows, f"{name}/experts.{index}/up")
    inner = emit_activation(graph, part.activation, up, f"{name}/experts.{index}/activation")
    return emit_linear(graph, part.downs[index], inner, f"{name}/experts.{index}/down")


def emit_all_experts(graph: GraphBuilder, part: Experts, hidden: str, name: str) -> str:
    """Add the part with every expert on all tokens, (…, hidden): the shares of experts that are not chosen are 0.

    Args:
        graph: graph to add to.
        part: the part.
        hidden: hidden states, (…, hidden).
        name: prefix of the nodes' names.
    """
    shares = emit_shares(graph, part, hidden, name)
    gates = graph.node("Mul", [shares, _emit_chosen(graph, part, shares, f"{name}/router")], f"{name}/router/gates")
    parts = [f"{name}/router/gate.{index}" for index in range(len(part.ups))]
    graph.nodes("Split", [gates, graph.constant([1] * len(parts))], f"{name}/router/split", parts, axis=-1)
    total = ""
    for index, gate in enumerate(parts):
        result = emit_expert(graph, part, index, hidden, name)
        weighted = graph.node("Mul", [result, gate], f"{name}/experts.{index}/weighted")
        total = weighted if index == 0 else graph.node("Add", [total, weighted], f"{name}/experts.{index}/total")
    if part.bias is None:
        return total
    return graph.node("Add", [total, graph.weight(part.bias)], f"{name}/with_bias")


def _emit_chosen(graph: GraphBuilder, part: Experts, shares: str, name: str) -> str:
    """Add 1 for each expert that is chosen, else 0, (…, experts).

    The largest share is removed until the least one that is chosen is the largest. CoreML has no comparisons, and devices
    would wait for TopK.
    """
    rest, last = shares, graph.constant([-1])
    for place in range(part.top - 1):
        largest = graph.node("ReduceMax", [rest, last], f"{name}/largest.{place}", keepdims=1)
        is_largest = _emit_reaches(graph, rest, largest, f"{name}/is_largest.{place}")
        removed = graph.node("Mul", [rest, is_largest], f"{name}/removed.{place}")
        rest = graph.node("Sub", [rest, removed], f"{name}/rest.{place}")
    least = graph.node("ReduceMax", [rest, last], f"{name}/least", keepdims=1)
    return _emit_reaches(graph, shares, least, f"{name}/chosen")


def _emit_reaches(graph: GraphBuilder, values: str, limit: str, name: str) -> str:
    """Add 1 for each value that is not below the limit, else 0: relu(1 - FAR · relu(limit - value))."""
    missing = graph.node("Sub", [limit, values], f"{name}/missing")
    missing = graph.node("Relu", [missing], f"{name}/below")
    far = graph.node("Mul", [missing, graph.constant(FAR)], f"{name}/far")
    return graph.node("Relu", [graph.node("Sub", [graph.constant(1.0), far], f"{name}/left")], name)
