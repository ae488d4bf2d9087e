"""Nodes that take a product's place, while they are collected: what every scheme needs of a graph. It knows no scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from .editor import GraphEditor
from .matrices import Place

__all__ = ["Nodes", "Product"]


@dataclass(frozen=True, slots=True)
class Product:
    """A product with a weight that is rewritten.

    Attributes:
        place: its matrix and node.
        value: the activations.
        output: the name that the result must have.
        weight: float32, (in, out), whatever it is stored as.
        bias: float32, (out,), or None.
        kind: of the activations and the result: float32 or float16.
    """

    place: Place
    value: str
    output: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    kind: np.dtype[Any]

    @property
    def name(self) -> str:
        """The matrix's."""
        return self.place.matrix.name


class Nodes:
    """The new graph's nodes so far. What several products need of one tensor is written once.

    Attributes:
        graph: takes the new weights.
        written: nodes in topological order.
        shared: by what was computed, the values that hold it.
    """

    def __init__(self, graph: GraphEditor) -> None:
        self.graph = graph
        self.written: list[onnx.NodeProto] = []
        self.shared: dict[tuple[str, ...], tuple[str, ...]] = {}

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output, of the same name."""
        self.written.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: np.generic) -> str:
        """A scalar."""
        return self.graph.add(f"quantize/{name}", np.asarray(value))

    def finish(self, product: Product, value: str, bias: NDArray[np.float32] | None, apart: str | None = None) -> None:
        """Gives a value the product's old name, the bias and what was multiplied apart added.

        The bias comes first: OpenVINO 2026.4 crashes while it compiles a quantized product to which anything else is added.
        """
        parts = [] if bias is None else [self.graph.add(f"{product.name}/bias", bias.astype(product.kind))]
        parts += [] if apart is None else [apart]
        if not parts:
            self.written.append(helper.make_node("Identity", [value], [product.output], name=f"{product.name}/output"))
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            output = product.output if last else f"{product.name}/biased"
            name = f"{product.name}/output" if last else output
            self.written.append(helper.make_node("Add", [value, part], [output], name=name))
            value = output
