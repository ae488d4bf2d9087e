"""Products and feed-forward parts over rows: the same nodes for packed tokens and for pooled vectors."""

from __future__ import annotations

from ...architecture import EmbeddingGate, FeedForward
from ...checkpoint.tensors import Adapter, Linear, concatenate
from ...graph.activations import emit_activation
from ...graph.builder import GraphBuilder
from ...graph.norms import emit_norm

__all__ = [
    "TASK_COLUMNS",
    "emit_adapter",
    "emit_embedding_gate",
    "emit_feed_forward",
    "emit_inner",
    "emit_linear",
    "emit_product",
    "side_by_side",
]

#: Node with 1 in the columns of each token's task and 0 in the others, (…, tasks · rank).
TASK_COLUMNS = "tasks/columns"


def emit_linear(graph: GraphBuilder, linear: Linear, value: str, name: str) -> str:
    """Add x · weight + bias, and what the adapter of each token's task adds."""
    product = emit_product(graph, linear, value, name)
    return product if linear.bias is None else graph.node("Add", [product, graph.weight(linear.bias)], name)


def emit_product(graph: GraphBuilder, linear: Linear, value: str, name: str) -> str:
    """Add x · weight, and what the adapter of each token's task adds, for an operator that adds the bias.

    Args:
        graph: graph to add to.
        linear: the product. Without a bias, the name of the result is `name`.
        value: x, (…, in).
        name: prefix of the nodes' names.
    """
    last = linear.bias is None
    if linear.adapter is None:
        return graph.node("MatMul", [value, graph.weight(linear.weight)], name if last else f"{name}/product")
    product = graph.node("MatMul", [value, graph.weight(linear.weight)], f"{name}/product")
    low = graph.node("MatMul", [value, graph.weight(linear.adapter.down)], f"{name}/adapter/low")
    return emit_adapter(graph, linear.adapter, low, product, name if last else f"{name}/adapted")


def emit_adapter(graph: GraphBuilder, adapter: Adapter, low: str, value: str, name: str) -> str:
    """Add value + (low, where the columns of other tasks are zeros) · up.

    Args:
        graph: graph to add to, which has the node `TASK_COLUMNS`.
        adapter: the adapter.
        low: (…, tasks · rank).
        value: what the adapter is added to, (…, out).
        name: name of the sum.
    """
    own = graph.node("Mul", [low, TASK_COLUMNS], f"{name}/adapter/own")
    added = graph.node("MatMul", [own, graph.weight(adapter.up)], f"{name}/adapter/added")
    return graph.node("Add", [value, added], name)


def emit_feed_forward(graph: GraphBuilder, part: FeedForward, hidden: str, name: str) -> str:
    """Add down(activation(up)), or down(activation(gate) · up)."""
    return emit_linear(graph, part.down, emit_inner(graph, part, hidden, name), f"{name}/down")


def emit_inner(graph: GraphBuilder, part: FeedForward, hidden: str, name: str) -> str:
    """Add a feed-forward part up to its down projection: activation(up), or activation(gate) · up."""
    up = emit_linear(graph, part.up, hidden, f"{name}/up")
    if part.gate is None:
        return emit_activation(graph, part.activation, up, f"{name}/activation")
    gate = emit_linear(graph, part.gate, hidden, f"{name}/gate")
    gate = emit_activation(graph, part.activation, gate, f"{name}/activation")
    return graph.node("Mul", [gate, up], f"{name}/gated")


def emit_embedding_gate(graph: GraphBuilder, part: EmbeddingGate, hidden: str, embedded: str, name: str) -> str:
    """Add down(activation(gate(hidden)) · norm(scale · signal(embedded)))."""
    signal = emit_linear(graph, part.signal, embedded, f"{name}/signal")
    signal = graph.node("Mul", [signal, graph.constant(part.scale)], f"{name}/signal/scaled")
    signal = emit_norm(graph, part.norm, signal, f"{name}/signal/norm")
    gate = emit_linear(graph, part.gate, hidden, f"{name}/gate")
    gate = emit_activation(graph, part.activation, gate, f"{name}/activation")
    return emit_linear(graph, part.down, graph.node("Mul", [gate, signal], f"{name}/gated"), f"{name}/down")


def side_by_side(parts: tuple[Linear, ...], name: str) -> Linear:
    """Return several products of one input as one, which MLAS runs faster than three small ones.

    The names of the new weights are made from the old ones, `self.query_key_value`, so that layers which share the old
    weights share the new ones.

    Args:
        parts: the products; either all or none of them have a bias.
        name: name of the node, for the message.
    """
    stems = [part.weight.name.removesuffix(".weight").rpartition(".") for part in parts]
    joined = f"{stems[0][0]}.{'_'.join(last for _, _, last in stems)}"
    weight = concatenate(f"{joined}.weight", [part.weight for part in parts], axis=1)
    biases = [part.bias for part in parts if part.bias is not None]
    adapters = [part.adapter for part in parts if part.adapter is not None]
    adapter = None
    if adapters:  # the parts share the first matrix
        adapter = Adapter(adapters[0].down, concatenate(f"{joined}.lora_B", [part.up for part in adapters], axis=1))
    if not biases:
        return Linear(weight, None, adapter)
    if len(biases) != len(parts) or len(adapters) not in (0, len(parts)):
        raise ValueError(f"{name}: either every part has a bias and an adapter or none")
    return Linear(weight, concatenate(f"{joined}.bias", biases, axis=0), adapter)
