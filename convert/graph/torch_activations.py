"""torch.nn's activation classes with their default arguments, authored with operators that every target has.

Source: torch/nn/modules/activation.py. sentence-transformers saves the name of a class, and creates it without arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .builder import GraphBuilder

__all__ = ["TORCH_ACTIVATIONS", "emit_torch_activation"]


class _Nodes:
    """Nodes of one activation: each method adds an operator, and names it after the activation and its number."""

    def __init__(self, graph: GraphBuilder, name: str) -> None:
        self._graph = graph
        self._name = name
        self._count = 0

    def node(self, operator: str, *values: str | float, **attributes: int) -> str:
        """Add a node; a number is a constant."""
        self._count += 1
        inputs = [value if isinstance(value, str) else self._graph.constant(float(value)) for value in values]
        return self._graph.node(operator, inputs, f"{self._name}/{self._count}", **attributes)

    def exp_minus_one(self, x: str) -> str:
        """Add exp(min(x, 0)) - 1."""
        return self.node("Sub", self.node("Exp", self.node("Min", x, 0.0)), 1.0)

    def log_one_plus_exp_of_minus_size(self, x: str) -> str:
        """Add log(1 + exp(-|x|)), which cannot overflow."""
        small = self.node("Exp", self.node("Mul", self.node("Abs", x), -1.0))
        return self.node("Log", self.node("Add", small, 1.0))

    def softplus(self, x: str) -> str:
        """Add log(1 + exp(x)); torch takes x itself above 20, where the two are equal in float32."""
        return self.node("Add", self.node("Relu", x), self.log_one_plus_exp_of_minus_size(x))

    def clip(self, x: str, low: float, high: float) -> str:
        """Add min(max(x, low), high)."""
        return self.node("Min", self.node("Max", x, low), high)

    def leaky(self, x: str, slope: float) -> str:
        """Add max(x, 0) + slope · min(x, 0)."""
        return self.node("Add", self.node("Relu", x), self.node("Mul", self.node("Min", x, 0.0), slope))

    def hard_sigmoid(self, x: str) -> str:
        """Add min(max(x + 3, 0), 6) / 6."""
        return self.node("Div", self.clip(self.node("Add", x, 3.0), 0.0, 6.0), 6.0)


#: SELU's constants (torch/csrc, and arXiv 1706.02515).
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _selu(nodes: _Nodes, x: str) -> str:
    negative = nodes.node("Mul", nodes.exp_minus_one(x), _SELU_ALPHA)
    return nodes.node("Mul", nodes.node("Add", nodes.node("Relu", x), negative), _SELU_SCALE)


def _elu(nodes: _Nodes, x: str) -> str:
    return nodes.node("Add", nodes.node("Relu", x), nodes.exp_minus_one(x))


def _hard_shrink(nodes: _Nodes, x: str) -> str:
    is_kept = nodes.node("Greater", nodes.node("Abs", x), 0.5)
    return nodes.node("Mul", x, nodes.node("Cast", is_kept, to=1))


#: Nodes by the name of torch's class; those of torch that transformers has too are in `activations.py`.
TORCH_ACTIVATIONS: Mapping[str, Callable[[_Nodes, str], str]] = MappingProxyType(
    {
        "CELU": _elu,  # the same with alpha 1
        "ELU": _elu,
        "Hardshrink": _hard_shrink,
        "Hardsigmoid": lambda nodes, x: nodes.hard_sigmoid(x),
        "Hardswish": lambda nodes, x: nodes.node("Mul", x, nodes.hard_sigmoid(x)),
        "Hardtanh": lambda nodes, x: nodes.clip(x, -1.0, 1.0),
        "LeakyReLU": lambda nodes, x: nodes.leaky(x, 0.01),
        "LogSigmoid": lambda nodes, x: nodes.node(
            "Sub", nodes.node("Min", x, 0.0), nodes.log_one_plus_exp_of_minus_size(x)
        ),
        "Mish": lambda nodes, x: nodes.node("Mul", x, nodes.node("Tanh", nodes.softplus(x))),
        # The slope at inference is the middle of the bounds, 1/8 and 1/3.
        "RReLU": lambda nodes, x: nodes.leaky(x, (1 / 8 + 1 / 3) / 2),
        "ReLU6": lambda nodes, x: nodes.clip(x, 0.0, 6.0),
        "SELU": _selu,
        "Softplus": lambda nodes, x: nodes.softplus(x),
        "Softshrink": lambda nodes, x: nodes.node("Sub", x, nodes.clip(x, -0.5, 0.5)),
        "Softsign": lambda nodes, x: nodes.node("Div", x, nodes.node("Add", nodes.node("Abs", x), 1.0)),
        "Tanhshrink": lambda nodes, x: nodes.node("Sub", x, nodes.node("Tanh", x)),
    }
)


def emit_torch_activation(graph: GraphBuilder, activation: str, value: str, name: str) -> str:
    """Add the activation's nodes.

    Args:
        graph: graph to add to.
        activation: one of `TORCH_ACTIVATIONS`.
        value: input of the activation.
        name: prefix of the nodes' names.
    """
    return TORCH_ACTIVATIONS[activation](_Nodes(graph, name), value)
