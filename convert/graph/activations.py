"""transformers' activation functions, authored with standard operators.

Source: `ACT2CLS` in transformers' activations.py; the names have the same meaning there.
"""

from __future__ import annotations

import math

from fletcher.runtime.errors import CheckpointError

from .builder import GraphBuilder

__all__ = ["AUTHORED", "TANH_GELUS", "check_activation", "emit_activation"]

AUTHORED = frozenset(
    {
        "gelu",
        "gelu_accurate",
        "gelu_fast",
        "gelu_new",
        "gelu_python",
        "gelu_python_tanh",
        "gelu_pytorch_tanh",
        "identity",
        "linear",
        "quick_gelu",
        "relu",
        "sigmoid",
        "silu",
        "swish",
        "tanh",
    }
)

#: Names of 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the last has its constant rounded to 0.7978845608.
TANH_GELUS = frozenset({"gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast"})

_OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def check_activation(name: object, where: str) -> str:
    """Return the name of an activation that Fletcher authors.

    Args:
        name: configured value.
        where: file and key, for the message.

    Raises:
        CheckpointError: Fletcher does not author the activation.
    """
    if not isinstance(name, str) or name not in AUTHORED:
        raise CheckpointError(
            f"{where} asks for the activation {name!r}; Fletcher authors {', '.join(sorted(AUTHORED))}"
        )
    return name


def emit_activation(graph: GraphBuilder, activation: str, value: str, name: str) -> str:
    """Add the activation's nodes.

    Args:
        graph: graph to add to.
        activation: one of `AUTHORED`.
        value: input of the activation.
        name: name of the output.
    """
    if activation in ("identity", "linear"):
        return value
    if activation in ("gelu", "gelu_python"):
        return graph.node("Gelu", [value], name)
    if activation in TANH_GELUS:
        return graph.node("Gelu", [value], name, approximate="tanh")
    if activation in ("silu", "swish", "quick_gelu"):
        scale = 1.702 if activation == "quick_gelu" else 1.0
        scaled = (
            value if math.isclose(scale, 1.0) else graph.node("Mul", [value, graph.constant(scale)], f"{name}/scaled")
        )
        return graph.node("Mul", [value, graph.node("Sigmoid", [scaled], f"{name}/sigmoid")], name)
    return graph.node(_OPERATORS[activation], [value], name)
