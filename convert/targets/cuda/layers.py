"""Layers and embeddings of the target `cuda` in the operators that have one kernel for several steps.

ONNX Runtime's CUDA kernels for standard operators are one pass over memory each, and its Gemm writes the bias into the result
first and reads it back: in BERT-base on an H200, 256 x 128 tokens, 5.1 of 24 ms went to that, 3.7 to Gelu, 3.4 to sums and
norms (torch's profiler, before this file). The operators here add the bias where they read the product anyway:

* `SkipLayerNormalization` adds a product, its bias and the residual, and norms the sum; of the embeddings, the rows of the
  word and position tables and of the token type;
* `BiasGelu` and `FastGelu` (tanh) add the bias before the activation.

They compute what the standard operators compute. What a layer has besides (rotation, gates, norms of queries) stays in
standard operators, and so does a whole layer of which a node must be fp32 in half precision, or that is bf16, for which there
are no kernels.

Sources: contrib_ops/cuda/bert/skip_layer_norm.cc and math/bias_gelu in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ...architecture import Attention, Embedding, FeedForward, Layer
from ...checkpoint.tensors import Linear, Norm
from ...graph.activations import emit_activation
from ...graph.builder import GraphBuilder
from ..shared.blocks import emit_linear
from ..shared.encoder import Parts, emit_token_types

__all__ = ["MICROSOFT", "Attend", "emit_cuda_layer", "emit_cuda_sum"]

MICROSOFT = "com.microsoft"

#: A layer's attention up to the context, (tokens, heads · head_size), from its hidden states and a name.
Attend = Callable[[Attention, str, str], str]

#: Activations that have an operator with a bias.
_WITH_BIAS: Mapping[str, str] = MappingProxyType(
    {
        "gelu": "BiasGelu",
        "gelu_python": "BiasGelu",
        "gelu_new": "FastGelu",
        "gelu_pytorch_tanh": "FastGelu",
        "gelu_python_tanh": "FastGelu",
        "gelu_accurate": "FastGelu",
        "gelu_fast": "FastGelu",
    }
)


def emit_cuda_layer(graph: GraphBuilder, layer: Layer, hidden: str, attend: Attend) -> str | None:
    """norm(x + f(x)) twice.

    Args:
        graph: where to.
        layer: which.
        hidden: its input, (tokens, hidden).
        attend: adds its attention.

    Returns:
        Its output, or None if this layer has to be written in standard operators.
    """
    first, second = layer.attention_norm, layer.feed_forward_norm
    if first is None or layer.norm_first or layer.attention_norm_again is not None or not first.bias or not second.bias:
        return None
    if not _has_kernels(graph, layer.name):
        return None
    context = attend(layer.attention, hidden, f"{layer.name}/attention")
    hidden = _close(graph, layer.attention.output, context, hidden, first, f"{layer.name}/attention", "output")
    name = f"{layer.name}/feed_forward"
    inner = _emit_inner(graph, layer.feed_forward, hidden, name)
    return _close(graph, layer.feed_forward.down, inner, hidden, second, name, "down")


def emit_cuda_sum(graph: GraphBuilder, embedding: Embedding, parts: Parts) -> str | None:
    """norm(word + position + token type), or None if it has to be written in standard operators."""
    norm = embedding.norm
    if norm is None or norm.bias is None or embedding.positions is None or not _has_kernels(graph, "embeddings"):
        return None
    inputs = [
        emit_token_types(graph, embedding, parts),
        parts.position(),
        graph.weight(norm.weight),
        graph.weight(norm.bias),
    ]
    if embedding.token_type is not None:
        inputs.append(graph.weight(embedding.token_type))
    return graph.node("SkipLayerNormalization", inputs, "embeddings/norm", domain=MICROSOFT, epsilon=norm.epsilon)


def _has_kernels(graph: GraphBuilder, name: str) -> bool:
    """Whether the operators exist in the types of a part's nodes."""
    precision = graph.precision
    return precision.arithmetic != "bf16" and not any(node.startswith(f"{name}/") for node in precision.islands)


def _emit_inner(graph: GraphBuilder, part: FeedForward, hidden: str, name: str) -> str:
    """activation(up), or activation(gate) · up."""
    operator = _WITH_BIAS.get(part.activation)
    if part.gate is None and operator is not None and part.up.bias is not None:
        product = graph.node("MatMul", [hidden, graph.weight(part.up.weight)], f"{name}/up/product")
        return graph.node(operator, [product, graph.weight(part.up.bias)], f"{name}/activation", domain=MICROSOFT)
    up = emit_linear(graph, part.up, hidden, f"{name}/up")
    if part.gate is None:
        return emit_activation(graph, part.activation, up, f"{name}/activation")
    gate = emit_linear(graph, part.gate, hidden, f"{name}/gate")
    gate = emit_activation(graph, part.activation, gate, f"{name}/activation")
    return graph.node("Mul", [gate, up], f"{name}/gated")


def _close(graph: GraphBuilder, linear: Linear, value: str, skip: str, norm: Norm, name: str, what: str) -> str:
    """norm(value · weight + bias + skip)."""
    assert norm.bias is not None
    # Without a bias the product is what the standard graph calls by that name.
    suffix = "" if linear.bias is None else "/product"
    product = graph.node("MatMul", [value, graph.weight(linear.weight)], f"{name}/{what}{suffix}")
    inputs = [product, skip, graph.weight(norm.weight), graph.weight(norm.bias)]
    if linear.bias is not None:
        inputs.append(graph.weight(linear.bias))
    return graph.node("SkipLayerNormalization", inputs, f"{name}/norm", domain=MICROSOFT, epsilon=norm.epsilon)
