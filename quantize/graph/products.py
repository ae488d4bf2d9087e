"""`ProductWriter`: writes the nodes of a quantized product in every scheme. It chooses no scheme and measures nothing.

Per token: each row of the activations has the scale of its own largest element, so no text depends on another one. With
q = round(x / s) + z, x W = s (q - z) V v, in which V is the weight in int8 and v has its scales by column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..recipe import MatrixScheme, Recipe
from .activations import Activations, even_steps, lower_bounds, uneven_steps
from .editor import CONTRIB, GraphEditor
from .matrices import Place
from .nodes import Nodes, Product
from .rounding import Columns, mean_error, round_columns, rounded_product
from .weight_only import write_blocks, write_half, write_table, write_widened

__all__ = ["ProductWriter"]

#: Beginning of the names of values with other rows than all tokens': encoder.layers.1/feed_forward/experts.4 and
#: encoder.layer.1/attention/first/hidden
OTHER_ROWS = re.compile(r".+/(experts\.\d+|attention/first/hidden)(?=/)")

#: Ends of the names of values with the rows of the pooled tokens alone.
POOLED_ROWS = ("/cls", "/lasttoken")


class ProductWriter:
    """`ProductWriter`: replaces products by the nodes of their schemes."""

    def __init__(
        self, graph: GraphEditor, recipe: Recipe, activations: Mapping[str, Activations] | None = None
    ) -> None:
        """Create a writer for one graph.

        Args:
            graph: the graph, which receives the new weights.
            recipe: settings of the schemes.
            activations: statistics of the activations by matrix, for a recipe that needs them; see
                `calibration.needs_calibration`.
        """
        self._graph = graph
        self._recipe = recipe
        self._activations = activations or {}
        self._nodes = Nodes(graph)
        self._bounds = lower_bounds(graph.nodes)
        self._pooled = _pooled_values(graph.nodes)

    def rewrite(self, places: Sequence[Place], schemes: dict[str, MatrixScheme]) -> None:
        """Rewrite the graph.

        Args:
            places: the matrices and their nodes.
            schemes: scheme by matrix; other matrices do not change.
        """
        by_node = {place.node: place for place in places if schemes.get(place.matrix.name, "fp32") != "fp32"}
        biases = self._biases(by_node)
        absorbed = {bias.name for bias in biases.values()}
        for node in self._graph.nodes:
            if node.name in absorbed:
                continue
            place = by_node.get(node.name)
            if place is None:
                self._nodes.written.append(node)
            elif place.matrix.kind == "table":
                write_table(self._nodes, node, place, self._recipe)
            else:
                self._product(self._read(node, place, biases.get(node.name)), schemes[place.matrix.name])
        self._graph.nodes = self._nodes.written

    def _biases(self, by_node: dict[str, Place]) -> dict[str, onnx.NodeProto]:
        """Return the addition of the bias by product, if it is the only reader of the product."""
        counts = self._graph.consumers()
        products = {
            node.output[0]: node.name
            for node in self._graph.nodes
            if node.name in by_node and node.op_type == "MatMul" and counts[node.output[0]] == 1
        }
        return {
            products[node.input[0]]: node
            for node in self._graph.nodes
            if node.op_type == "Add"
            and node.input[0] in products
            and self._graph.is_weight(node.input[1])
            and len(self._graph.shape(node.input[1])) == 1
        }

    def _read(self, node: onnx.NodeProto, place: Place, add: onnx.NodeProto | None) -> Product:
        stored = self._graph.values(place.weight)
        bias = None if add is None else np.asarray(self._graph.values(add.input[1]), np.float32)
        output = (node if add is None else add).output[0]
        return Product(place, node.input[0], output, np.asarray(stored, np.float32), bias, stored.dtype)

    def _product(self, product: Product, scheme: MatrixScheme) -> None:
        nodes, recipe = self._nodes, self._recipe
        if scheme in ("fp16", "bf16"):
            half = write_half(nodes, product.place.weight, product.weight, scheme)
            value = nodes.node("MatMul", [product.value, half], f"{product.name}/product")
            nodes.finish(product, value, product.bias)
        elif scheme == "w8" and recipe.target in ("coreml", "openvino"):
            write_widened(nodes, product, recipe)
        elif scheme in ("w8", "w4"):
            activations = self._activations.get(product.name) if recipe.bias_correction else None
            mean = None if activations is None else activations.raw_mean
            write_blocks(nodes, product, recipe, 8 if scheme == "w8" else 4, mean)
        elif scheme == "int8-static":
            self._static(product)
        elif scheme == "int8-dynamic":
            self._dynamic(product)
        else:
            self._per_token(product)

    def _per_token(self, product: Product) -> None:
        nodes, name, bias = self._nodes, product.name, product.bias
        bound = self._bounds.get(product.value)
        apart = self._apart(product)
        value, weight = self._smooth(product)
        if self._recipe.asymmetric and bound is not None:
            codes, scales, zero = self._shifted_rows(value, bound)
        else:
            bound = None
            codes, scales, zero = self._even_rows(value)
        columns = self._round(weight)
        if bound:
            bias = _plus(bias, -bound * rounded_product(np.ones(len(weight)), columns))
        if self._recipe.bias_correction:  # with a scale per row only the weight's error remains in the mean
            bias = _plus(bias, mean_error(self._activations[name].mean, weight, columns))
        weights, weight_scales = self._store(product, columns)
        inputs = [codes, weights, nodes.constant("one", np.float32(1)), weight_scales, zero]
        value = nodes.node("MatMulIntegerToFloat", inputs, f"{name}/integers", domain=CONTRIB)
        nodes.finish(product, nodes.node("Mul", [value, scales], f"{name}/scaled"), bias, apart)

    def _even_rows(self, value: str) -> tuple[str, str, str]:
        """Quantize rows around 128, and return codes (tokens, in), scales (tokens, 1) and the zero point."""
        nodes, key = self._nodes, (value, "even")
        if key not in nodes.shared:
            sizes = nodes.node("Abs", [value], f"{value}/abs")
            row, scales = self._row_scales(value, sizes, 127)
            middles = self._middles(row, value.removesuffix("/smooth") in self._pooled)
            codes = nodes.node("QuantizeLinear", [value, row, middles], f"{value}/codes", axis=0)
            nodes.shared[key] = (codes, scales)
        codes, scales = nodes.shared[key]
        return codes, scales, nodes.constant("middle", np.uint8(128))

    def _shifted_rows(self, value: str, bound: float) -> tuple[str, str, str]:
        """Quantize rows from -bound upward, and return codes (tokens, in), scales (tokens, 1) and the zero point 0."""
        nodes, key = self._nodes, (value, "shifted")
        if key not in nodes.shared:
            shift = nodes.constant(f"bound{bound}", np.float32(bound))
            moved = nodes.node("Add", [value, shift], f"{value}/moved")
            row, scales = self._row_scales(value, moved, 255)
            codes = nodes.node("QuantizeLinear", [moved, row], f"{value}/codes", axis=0, output_dtype=TensorProto.UINT8)
            nodes.shared[key] = (codes, scales)
        codes, scales = nodes.shared[key]
        return codes, scales, nodes.constant("none", np.uint8(0))

    def _row_scales(self, value: str, sizes: str, levels: int) -> tuple[str, str]:
        """Return each row's largest element divided by `levels`, as (tokens,) and as (tokens, 1)."""
        nodes = self._nodes
        axis = self._graph.add("quantize/last", np.array([-1], np.int64))
        largest = nodes.node("ReduceMax", [sizes, axis], f"{value}/max")
        floored = nodes.node("Max", [largest, nodes.constant("tiny", np.float32(1e-20))], f"{value}/floor")
        step = nodes.constant(f"1/{levels}", np.float32(1 / levels))
        scales = nodes.node("Mul", [floored, step], f"{value}/scales")
        return nodes.node("Squeeze", [scales, axis], f"{value}/scales_row"), scales

    def _middles(self, row: str, is_pooled: bool) -> str:
        """Return 128 for each row of the batch, uint8, (tokens,), or (texts,) for pooled rows and for later modules."""
        # The encoder's values have a row for each token, and in the last layer maybe for each text. A module may have one
        # for each text, as the first tokens have, and an expert has those of its tokens: they share with none.
        owner = f"/{row.partition('/')[0]}" if row.startswith("modules.") else "/pooled" if is_pooled else ""
        if (others := OTHER_ROWS.match(row)) is not None:
            owner = f"/{others[0]}"
        nodes, key = self._nodes, ("middles", owner)
        if key not in nodes.shared:
            shape = nodes.node("Shape", [row], f"quantize{owner}/rows")
            value = helper.make_tensor("value", TensorProto.UINT8, [1], [128])
            nodes.shared[key] = (nodes.node("ConstantOfShape", [shape], f"quantize{owner}/middles", value=value),)
        return nodes.shared[key][0]

    def _dynamic(self, product: Product) -> None:
        nodes, value = self._nodes, product.value
        key = (value, "batch")
        if key not in nodes.shared:
            parts = [f"{value}/{part}" for part in ("codes", "scale", "zero")]
            nodes.written.append(helper.make_node("DynamicQuantizeLinear", [value], parts, name=f"{value}/batch"))
            nodes.shared[key] = tuple(parts)
        codes, scale, zero = nodes.shared[key]
        columns = self._round(product.weight)
        weights = self._graph.add(f"{product.place.weight}.int8", columns.values)
        weight_scales = self._graph.add(f"{product.place.weight}.scales", columns.scales)
        inputs = [codes, weights, scale, weight_scales, zero]
        result = nodes.node("MatMulIntegerToFloat", inputs, f"{product.name}/integers", domain=CONTRIB)
        nodes.finish(product, result, product.bias)

    def _static(self, product: Product) -> None:
        """Write Q/DQ around the product, which a provider fuses if it can; GPUs' kernels take symmetric ranges in int8."""
        nodes, name, bias = self._nodes, product.name, product.bias
        activations = self._activations[name]
        gpu = self._recipe.target in ("cuda", "tensorrt")
        limits = activations.low, activations.high
        steps = even_steps(*limits) if gpu else uneven_steps(*limits)
        apart = self._apart(product)
        value, weight = self._smooth(product)
        columns = self._round(weight)
        if self._recipe.bias_correction:
            error = activations.mean.astype(np.float64) @ weight
            error -= rounded_product(activations.coded.astype(np.float64), columns)
            bias = _plus(bias, error)
        zero = np.int8(steps.zero) if gpu else np.uint8(steps.zero)
        scale = nodes.constant(f"{name}/scale", product.kind.type(steps.scale))
        pair = [scale, nodes.constant(f"{name}/zero", zero)]
        quantized = nodes.node("QuantizeLinear", [value, *pair], f"{name}/q")
        codes, scales = self._store(product, columns)
        if self._recipe.target == "cpu":  # names MLAS' kernel: ONNX Runtime computes these Q/DQ products in float32
            inputs = [quantized, codes, pair[0], scales, pair[1]]
            result = nodes.node("MatMulIntegerToFloat", inputs, f"{name}/integers", domain=CONTRIB)
        else:
            restored = nodes.node("DequantizeLinear", [quantized, *pair], f"{name}/dq")
            zeros = self._graph.add(f"{scales.removesuffix('.scales')}.zeros", np.zeros(weight.shape[1], np.int8))
            weights = nodes.node("DequantizeLinear", [codes, scales, zeros], f"{name}/weight", axis=1)
            result = nodes.node("MatMul", [restored, weights], f"{name}/product")
        nodes.finish(product, result, bias, apart)

    def _smooth(self, product: Product) -> tuple[str, NDArray[np.float32]]:
        """Return activations whose spread moved into the weight, without outlier columns, and that weight.

        The preceding norm cannot absorb the factors, because the residual connection reads it too, so a node multiplies.
        """
        activations = self._activations.get(product.name)
        multipliers = None if activations is None else activations.multipliers
        if activations is None or multipliers is None:
            return product.value, product.weight
        nodes, key = self._nodes, (product.value, "smooth")
        if key not in nodes.shared:
            factors = self._graph.add(f"{product.value}/smooth_factors", multipliers.astype(product.kind))
            nodes.shared[key] = (nodes.node("Mul", [product.value, factors], f"{product.value}/smooth"),)
        return nodes.shared[key][0], activations.absorb(product.weight)

    def _apart(self, product: Product) -> str | None:
        """Write the outlier columns' product in float (after LLM.int8(), arXiv:2208.07339), and return its name, or None.

        A few columns decide the scale of all others. Without them the steps of the others are several times finer.
        """
        loud = self._activations[product.name].loud if self._recipe.outliers else np.empty(0, np.int64)
        if not len(loud):
            return None
        nodes, key = self._nodes, (product.value, "loud")
        if key not in nodes.shared:
            columns = self._graph.add(f"{product.value}/loud_columns", loud)
            nodes.shared[key] = (nodes.node("Gather", [product.value, columns], f"{product.value}/loud", axis=-1),)
        rows = self._graph.add(f"{product.name}/loud_rows", product.weight[loud].astype(product.kind))
        return nodes.node("MatMul", [nodes.shared[key][0], rows], f"{product.name}/apart")

    @property
    def _limit(self) -> int:
        return 63 if self._recipe.reduced_range else 127

    def _round(self, weight: NDArray[np.float32]) -> Columns:
        return round_columns(weight, limit=self._limit, search=self._recipe.search)

    def _store(self, product: Product, columns: Columns) -> tuple[str, str]:
        """Store a rounded weight and its scales, and return their names. Layers may share a weight that is not smoothed."""
        activations = self._activations.get(product.name)
        own = activations is not None and activations.multipliers is not None
        stored = product.name if own else product.place.weight
        codes = self._graph.add(f"{stored}.int8", columns.values)
        return codes, self._graph.add(f"{stored}.scales", columns.scales.astype(product.kind))


def _pooled_values(nodes: Sequence[onnx.NodeProto]) -> frozenset[str]:
    """Return the values that are computed from the rows of the tokens that are pooled, taken in the last layer."""
    values: set[str] = set()
    for node in nodes:
        if node.name.endswith(POOLED_ROWS) or not values.isdisjoint(node.input):
            values.update(node.output)
    return frozenset(values)


def _plus(bias: NDArray[np.float32] | None, error: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the bias plus the mean error of the quantized product."""
    return np.asarray(error if bias is None else bias + error, np.float32)
