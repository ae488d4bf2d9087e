"""Layers and embeddings of the target `cuda`, in operators that have one kernel for several steps.

ONNX Runtime's CUDA kernels for standard operators take one pass over memory each, and its Gemm writes the bias into the
result first and reads it back: for BERT-base with 256 x 128 tokens that took 5.1 of 24 ms, Gelu 3.7 ms, sums and norms 3.4 ms
(H200, torch's profiler). The operators here add the bias while they read the product:

* `SkipLayerNormalization` adds a product, its bias and the residual, and norms the sum; of the embeddings, the rows of the
  word and position tables and of the token type;
* `BiasGelu` and `FastGelu` (tanh) add the bias before the activation.

The results are those of the standard operators. Other parts of a layer (rotation, gates, norms of queries) stay in standard
operators. A whole layer stays in standard operators if one of its nodes must be fp32 in half precision, or if it is bf16, for
which these operators have no kernels.

Sources: contrib_ops/cuda/bert/skip_layer_norm.cc and math/bias_gelu in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...architecture import Attention, Block, Embedding, EmbeddingGate, Experts, FeedForward, Layer
from ...checkpoint.tensors import Linear, Norm
from ...graph.builder import GraphBuilder
from ...graph.norms import MICROSOFT, SUMMED_NORMS, emit_summed_norm
from ..shared.blocks import emit_inner, emit_product
from ..shared.encoder import Attend, Parts, emit_token_types
from ..shared.pooling import PooledRows
from .kernels import Kernels

__all__ = ["emit_cuda_layer", "emit_cuda_sum"]

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


def emit_cuda_layer(
    graph: GraphBuilder,
    layer: Layer,
    hidden: str,
    attend: Attend,
    rows: PooledRows | None,
    kernels: Kernels | None = None,
) -> str | None:
    """Add a layer of post-norm blocks, norm(x + f(x)) each.

    Args:
        graph: graph to add to.
        layer: layer to emit.
        hidden: input of the layer, (tokens, hidden).
        attend: adds an attention up to its context.
        rows: rows that are pooled, the only ones behind the attention of the last layer; None for all.
        kernels: emitter of Fletcher's own operators, for gates; None: the graph has none.

    Returns:
        The output of the layer, or None if the layer needs standard operators.
    """
    fused = [(block, norm) for block in layer.blocks if (norm := _fused_norm(block)) is not None]
    if len(fused) < len(layer.blocks) or layer.scale is not None or not _has_kernels(graph, layer.name):
        return None
    for block, norm in fused:
        if isinstance(block.body, Attention):
            name, linear, last = f"{layer.name}/attention", block.body.output, "output"
            inner = attend(block.body, hidden, name, rows)
            if rows is not None:
                hidden = rows.take(hidden, rows.width, f"{name}/hidden")
        elif isinstance(block.body, FeedForward):
            name, linear, last = f"{layer.name}/feed_forward", block.body.down, "down"
            gated = emit_inner if kernels is None else kernels.emit_inner
            emit = _emit_inner if block.body.gate is None else gated
            inner = emit(graph, block.body, hidden, name)
        else:
            raise TypeError(f"{layer.name}: a block of {type(block.body).__name__} has no fused operator")
        hidden = _close(graph, linear, inner, hidden, norm, name, last)
    return hidden


def _fused_norm(block: Block) -> Norm | None:
    """Return the norm of a block's sum if one operator can add and norm it, and the block has no other norm."""
    norm = block.norm_sum
    if (
        isinstance(block.body, Block | EmbeddingGate | Experts)
        or block.norm_before is not None
        or block.norm_after is not None
    ):
        return None
    return norm if norm is not None and _is_fusable(norm) else None


def _is_fusable(norm: Norm) -> bool:
    return norm.bias is not None and norm.kind in SUMMED_NORMS


def emit_cuda_sum(graph: GraphBuilder, embedding: Embedding, parts: Parts) -> str | None:
    """Add norm(word + position + token type); return None if it needs standard operators."""
    norm = embedding.norm
    if norm is None or not _is_fusable(norm) or embedding.positions is None or not _has_kernels(graph, "embeddings"):
        return None
    word, position = emit_token_types(graph, embedding, parts), parts.position()
    token_type = None if embedding.token_type is None else graph.weight(embedding.token_type)
    return emit_summed_norm(graph, norm, (word, position, token_type), "embeddings/norm")


def _has_kernels(graph: GraphBuilder, name: str) -> bool:
    """Return whether the operators exist in the types of a part's nodes."""
    precision = graph.precision
    return precision.arithmetic != "bf16" and not any(node.startswith(f"{name}/") for node in precision.islands)


def _emit_inner(graph: GraphBuilder, part: FeedForward, hidden: str, name: str) -> str:
    """Add activation(up)."""
    operator = _WITH_BIAS.get(part.activation)
    if operator is not None and part.up.bias is not None:
        product = emit_product(graph, part.up, hidden, f"{name}/up")
        return graph.node(operator, [product, graph.weight(part.up.bias)], f"{name}/activation", domain=MICROSOFT)
    return emit_inner(graph, part, hidden, name)


def _close(graph: GraphBuilder, linear: Linear, value: str, skip: str, norm: Norm, name: str, what: str) -> str:
    """Add norm(value · weight + bias + skip)."""
    product = emit_product(graph, linear, value, f"{name}/{what}")
    bias = None if linear.bias is None else graph.weight(linear.bias)
    return emit_summed_norm(graph, norm, (product, skip, bias), f"{name}/norm")
