"""Operators of norms by the norm's kind: the one place that names them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..checkpoint.tensors import Norm, NormKind
from .builder import GraphBuilder

__all__ = ["MICROSOFT", "NORMS", "SUMMED_NORMS", "emit_norm", "emit_summed_norm"]

#: Domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"

#: Standard operators. A kind without an entry cannot be emitted on any target.
NORMS: Mapping[NormKind, str] = MappingProxyType({"layer_norm": "LayerNormalization"})

#: Operators of ONNX Runtime's CUDA provider that add bias and residual before they norm.
SUMMED_NORMS: Mapping[NormKind, str] = MappingProxyType({"layer_norm": "SkipLayerNormalization"})


def emit_norm(graph: GraphBuilder, norm: Norm, value: str, name: str) -> str:
    """Add a norm over the last axis, as one operator."""
    inputs = [value, graph.weight(norm.weight)]
    if norm.bias is not None:
        inputs.append(graph.weight(norm.bias))
    return graph.node(NORMS[norm.kind], inputs, name, axis=-1, epsilon=norm.epsilon)


def emit_summed_norm(graph: GraphBuilder, norm: Norm, terms: tuple[str, str, str | None], name: str) -> str:
    """Add the norm of a sum, as one operator of ONNX Runtime's CUDA provider.

    Args:
        graph: graph to add to.
        norm: norm with a bias.
        terms: two values of one shape, (tokens, hidden), and a vector, (hidden,), or None.
        name: name of the node.
    """
    if norm.bias is None:
        raise ValueError(f"{name}: {SUMMED_NORMS[norm.kind]} needs a norm with a bias")
    first, second, vector = terms
    inputs = [first, second, graph.weight(norm.weight), graph.weight(norm.bias)]
    if vector is not None:
        inputs.append(vector)
    return graph.node(SUMMED_NORMS[norm.kind], inputs, name, domain=MICROSOFT, epsilon=norm.epsilon)
