"""`Nodes`: collects the nodes of a rewritten graph. It knows no scheme."""

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
    """`Product`: a product with a weight, to be rewritten.

    Attributes:
        place: matrix and node of the product.
        value: name of the activations.
        output: name of the result.
        weight: the weight in float32, (in, out); it may be stored in another type.
        bias: the bias in float32, (out,), or None.
        kind: type of the activations and the result: float32 or float16.
    """

    place: Place
    value: str
    output: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    kind: np.dtype[Any]

    @property
    def name(self) -> str:
        """Name of the matrix."""
        return self.place.matrix.name


class Nodes:
    """`Nodes`: the nodes of a rewritten graph. Nodes that several products need are written once.

    Attributes:
        graph: receives the new weights.
        written: nodes in topological order.
        shared: names of computed values, by a key of the computation.
    """

    def __init__(self, graph: GraphEditor) -> None:
        self.graph = graph
        self.written: list[onnx.NodeProto] = []
        self.shared: dict[tuple[str, ...], tuple[str, ...]] = {}

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return the name of both."""
        self.written.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: np.generic) -> str:
        """Add a scalar initializer, and return its name."""
        return self.graph.add(f"quantize/{name}", np.asarray(value))

    def finish(self, product: Product, value: str, bias: NDArray[np.float32] | None, apart: str | None = None) -> None:
        """Add the bias and the outliers' product to a value, and give the sum the old name of the product.

        The bias comes first: OpenVINO 2026.4 crashes while it compiles a quantized product with another addition.

        Args:
            product: the rewritten product.
            value: name of its result without bias.
            bias: the bias, (out,), or None.
            apart: name of the outliers' product, or None.
        """
        parts = [] if bias is None else [self.graph.add(f"{product.name}/bias", bias.astype(product.kind))]
        parts += [] if apart is None else [apart]
        if not parts:
            self.written.append(helper.make_node("Identity", [value], [product.output], name=f"{product.name}/output"))
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            output = product.output if last else f"{product.name}/biased"
            name = f"{product.name}/output" if last else output
            self.written.append(helper.make_node("Add", [value, part], [output], name=name))
            value = output
