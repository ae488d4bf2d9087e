"""Operators of norms by the norm's kind: the one place that names them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..checkpoint.tensors import Norm, NormKind
from .builder import GraphBuilder

__all__ = ["MICROSOFT", "NORMS", "RMS_OPSET", "SUMMED_NORMS", "emit_norm", "emit_summed_norm"]

#: Domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"

#: Standard operators.
NORMS: Mapping[NormKind, str] = MappingProxyType({"layer_norm": "LayerNormalization", "rms_norm": "RMSNormalization"})

#: First operator set with `RMSNormalization`; graphs of older sets have its steps as nodes of their own.
RMS_OPSET = 23

#: Operators of ONNX Runtime's CUDA provider that add bias and residual before they norm.
SUMMED_NORMS: Mapping[NormKind, str] = MappingProxyType({"layer_norm": "SkipLayerNormalization"})


def emit_norm(graph: GraphBuilder, norm: Norm, value: str, name: str) -> str:
    """Add a norm over the last axis: one operator, or for `rms_norm` in old operator sets its steps.

    The steps have names `NAME/rms/STEP`, which are fp32 in every precision (see `precision.Precision`).
    """
    if norm.kind == "rms_norm" and graph.opset < RMS_OPSET:
        return _emit_rms_steps(graph, norm, value, name)
    inputs = [value, graph.weight(norm.weight)]
    if norm.bias is not None:
        inputs.append(graph.weight(norm.bias))
    return graph.node(NORMS[norm.kind], inputs, name, axis=-1, epsilon=norm.epsilon)


def _emit_rms_steps(graph: GraphBuilder, norm: Norm, value: str, name: str) -> str:
    """Add value / sqrt(mean(value²) + epsilon) · weight."""
    steps = f"{name}/rms"
    squares = graph.node("Mul", [value, value], f"{steps}/squares")
    total = graph.node("ReduceSum", [squares, graph.constant([-1])], f"{steps}/total", keepdims=1)
    mean = graph.node("Mul", [total, graph.constant(1.0 / norm.weight.shape[0])], f"{steps}/mean")
    shifted = graph.node("Add", [mean, graph.constant(norm.epsilon)], f"{steps}/shifted")
    root = graph.node("Sqrt", [shifted], f"{steps}/root")
    normed = graph.node("Div", [value, root], f"{steps}/normed")
    return graph.node("Mul", [normed, graph.weight(norm.weight)], name)


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
