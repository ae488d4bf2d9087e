"""A product with a weight, in integers: the nodes of every scheme. It chooses no scheme and measures nothing.

Per token: row r of the activations is scaled by its own largest element, so that no text depends on another one. With
q = round(x / s) + z, x W = s (q - z) V v, where V is the weight in int8 and v its scales by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.runtime.errors import InputError

from .graph import CONTRIB, GraphEditor
from .matrices import Place
from .recipe import MatrixScheme, Recipe
from .rounding import pack_nibbles, round_blocks, round_columns, round_rows

__all__ = ["GELU_FLOOR", "LOWER_BOUNDS", "ActivationRange", "ProductWriter"]

#: Just below Gelu's minimum, -0.16997 at -0.7518.
GELU_FLOOR = 0.17

#: By the operator that makes them, how far below zero activations can be.
LOWER_BOUNDS = {"Gelu": GELU_FLOOR, "Relu": 0.0}


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """What a product's activations are on the calibration texts.

    Attributes:
        low: smallest element that shall be representable.
        high: largest one.
        lowest: smallest element of each column or 0, float32, (in,).
        highest: largest one or 0, float32, (in,).
        mean: of each column, float32, (in,).
    """

    low: float
    high: float
    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    mean: NDArray[np.float32]

    @property
    def columns(self) -> NDArray[np.float32]:
        """Largest absolute element of each column, float32, (in,)."""
        return np.maximum(self.highest, -self.lowest)


class ProductWriter:
    """Writes the nodes that take a product's place. What several products need of one tensor is written once."""

    def __init__(self, graph: GraphEditor, recipe: Recipe, ranges: dict[str, ActivationRange] | None = None) -> None:
        """
        Args:
            graph: takes the new weights.
            recipe: how.
            ranges: by matrix, what its activations are; needed by `int8-static`, SmoothQuant and bias correction.
        """
        self._graph = graph
        self._recipe = recipe
        self._ranges = ranges or {}
        self._nodes: list[onnx.NodeProto] = []
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._made_by = {output: node for node in graph.nodes for output in node.output}

    def rewrite(self, places: Sequence[Place], schemes: dict[str, MatrixScheme]) -> None:
        """Rewrites the graph.

        Args:
            places: the matrices.
            schemes: by matrix; those that are missing stay.
        """
        by_node = {place.node: place for place in places if schemes.get(place.matrix.name, "fp32") != "fp32"}
        biases = self._biases(by_node)
        absorbed = {bias.name for bias in biases.values()}
        for node in self._graph.nodes:
            if node.name in absorbed:
                continue
            place = by_node.get(node.name)
            if place is None:
                self._nodes.append(node)
            elif place.matrix.kind == "table":
                self._table(node, place)
            else:
                self._product(node, place, schemes[place.matrix.name], biases.get(node.name))
        self._graph.nodes = self._nodes

    def _biases(self, by_node: dict[str, Place]) -> dict[str, onnx.NodeProto]:
        """By product, the addition of a weight that is all that reads it."""
        counts = self._graph.consumers()
        made = {
            node.output[0]: node.name
            for node in self._graph.nodes
            if node.name in by_node and node.op_type == "MatMul" and counts[node.output[0]] == 1
        }
        return {
            made[node.input[0]]: node
            for node in self._graph.nodes
            if node.op_type == "Add"
            and node.input[0] in made
            and self._graph.is_weight(node.input[1])
            and len(self._graph.shape(node.input[1])) == 1
        }

    def _product(self, node: onnx.NodeProto, place: Place, scheme: MatrixScheme, add: onnx.NodeProto | None) -> None:
        value, output = node.input[0], (node if add is None else add).output[0]
        bias = None if add is None else np.asarray(self._graph.values(add.input[1]), np.float32)
        weight = np.asarray(self._graph.values(place.weight), np.float32)
        name = place.matrix.name
        if scheme in ("fp16", "bf16"):
            half = self._half(place.weight, weight, scheme)
            self._finish(self._node("MatMul", [value, half], f"{name}/product"), bias, name, output)
        elif scheme in ("w8", "w4"):
            self._blocks(value, weight, bias, place, 8 if scheme == "w8" else 4, output)
        elif scheme == "int8-static":
            self._static(value, weight, bias, place, output)
        elif scheme == "int8-dynamic":
            self._dynamic(value, weight, bias, place, output)
        else:
            self._per_token(value, weight, bias, place, output)

    def _per_token(
        self, value: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, place: Place, output: str
    ) -> None:
        name = place.matrix.name
        bound = self._bound(value)
        value, weight, smoothed = self._smooth(value, weight, place)
        if self._recipe.asymmetric and bound is not None:
            codes, scales, zero = self._shifted_rows(value, bound)
        else:
            bound = None
            codes, scales, zero = self._even_rows(value)
        columns = round_columns(weight, limit=self._limit, search=self._recipe.search)
        if bound:
            shift = (-bound * columns.floats.sum(axis=0, dtype=np.float64)).astype(np.float32)
            bias = shift if bias is None else bias + shift
        bias = self._corrected(bias, weight, columns.floats, name, smoothed)
        stored = self._stored(place, smoothed)
        inputs = [codes, self._graph.add(f"{stored}.int8", columns.values), self._constant("one", np.float32(1))]
        inputs += [self._graph.add(f"{stored}.scales", columns.scales), zero]
        product = self._node("MatMulIntegerToFloat", inputs, f"{name}/integers", domain=CONTRIB)
        scaled = self._node("Mul", [product, scales], f"{name}/scaled")
        self._finish(scaled, bias, name, output)

    def _bound(self, value: str) -> float | None:
        """How far below zero a value can be, if its operator says so."""
        maker = self._made_by.get(value)
        return None if maker is None else LOWER_BOUNDS.get(maker.op_type)

    def _even_rows(self, value: str) -> tuple[str, str, str]:
        """Rows around 128: codes (tokens, in), scales (tokens, 1), the zero point."""
        key = (value, "even")
        if key not in self._shared:
            largest = self._node(
                "ReduceMax", [self._node("Abs", [value], f"{value}/abs"), self._axis()], f"{value}/max"
            )
            floored = self._node("Max", [largest, self._constant("tiny", np.float32(1e-20))], f"{value}/floor")
            scales = self._node("Mul", [floored, self._constant("1/127", np.float32(1 / 127))], f"{value}/scales")
            row = self._node("Squeeze", [scales, self._axis()], f"{value}/scales_row")
            codes = self._node("QuantizeLinear", [value, row, self._middles(row)], f"{value}/codes", axis=0)
            self._shared[key] = (codes, scales)
        codes, scales = self._shared[key]
        return codes, scales, self._constant("middle", np.uint8(128))

    def _shifted_rows(self, value: str, bound: float) -> tuple[str, str, str]:
        """Rows from -bound up: codes (tokens, in), scales (tokens, 1), the zero point, which is none."""
        key = (value, "shifted")
        if key not in self._shared:
            moved = self._node("Add", [value, self._constant(f"bound{bound}", np.float32(bound))], f"{value}/moved")
            largest = self._node("ReduceMax", [moved, self._axis()], f"{value}/max")
            floored = self._node("Max", [largest, self._constant("tiny", np.float32(1e-20))], f"{value}/floor")
            scales = self._node("Mul", [floored, self._constant("1/255", np.float32(1 / 255))], f"{value}/scales")
            row = self._node("Squeeze", [scales, self._axis()], f"{value}/scales_row")
            codes = self._node("QuantizeLinear", [moved, row], f"{value}/codes", axis=0, output_dtype=TensorProto.UINT8)
            self._shared[key] = (codes, scales)
        codes, scales = self._shared[key]
        return codes, scales, self._constant("none", np.uint8(0))

    def _dynamic(
        self, value: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, place: Place, output: str
    ) -> None:
        name = place.matrix.name
        key = (value, "batch")
        if key not in self._shared:
            parts = [f"{value}/{part}" for part in ("codes", "scale", "zero")]
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [value], parts, name=f"{value}/batch"))
            self._shared[key] = tuple(parts)
        codes, scale, zero = self._shared[key]
        columns = round_columns(weight, limit=self._limit, search=self._recipe.search)
        inputs = [codes, self._graph.add(f"{place.weight}.int8", columns.values), scale]
        inputs += [self._graph.add(f"{place.weight}.scales", columns.scales), zero]
        product = self._node("MatMulIntegerToFloat", inputs, f"{name}/integers", domain=CONTRIB)
        self._finish(product, bias, name, output)

    def _static(
        self, value: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, place: Place, output: str
    ) -> None:
        """Q/DQ around the product, which providers fuse as they can; for GPUs' kernels with even ranges in int8."""
        name = place.matrix.name
        seen = self._ranges[name]
        low, high = min(seen.low, 0.0), max(seen.high, 0.0)
        value, weight, smoothed = self._smooth(value, weight, place)
        if smoothed is not None:  # as much of the smoothed range as the recipe keeps of the range
            low = float((seen.lowest / smoothed).min()) * low / min(float(seen.lowest.min()), -1e-20)
            high = float((seen.highest / smoothed).max()) * high / max(float(seen.highest.max()), 1e-20)
        codes, zero = np.uint8, 0
        if self._recipe.target in ("cuda", "tensorrt"):
            codes, scale = np.int8, max(high, -low, 1e-20) / 127
        else:
            scale = max(high - low, 1e-20) / 255
            zero = round(-low / scale)
        pair = [self._constant(f"{name}/scale", np.float32(scale)), self._constant(f"{name}/zero", codes(zero))]
        quantised = self._node("QuantizeLinear", [value, *pair], f"{name}/q")
        if self._recipe.target == "cpu":  # MLAS' kernel by name: ONNX Runtime leaves these Q/DQ products in float32
            columns = round_columns(weight, limit=self._limit, search=self._recipe.search)
            bias = self._corrected(bias, weight, columns.floats, name, smoothed)
            stored = self._stored(place, smoothed)
            inputs = [quantised, self._graph.add(f"{stored}.int8", columns.values), pair[0]]
            inputs += [self._graph.add(f"{stored}.scales", columns.scales), pair[1]]
            product = self._node("MatMulIntegerToFloat", inputs, f"{name}/integers", domain=CONTRIB)
            self._finish(product, bias, name, output)
            return
        restored = self._node("DequantizeLinear", [quantised, *pair], f"{name}/dq")
        columns = round_columns(weight, limit=self._limit, search=self._recipe.search)
        stored = self._stored(place, smoothed)
        parts = [self._graph.add(f"{stored}.int8", columns.values)]
        parts += [self._graph.add(f"{stored}.scales", columns.scales)]
        parts += [self._graph.add(f"{stored}.zeros", np.zeros(weight.shape[1], np.int8))]
        weights = self._node("DequantizeLinear", parts, f"{name}/weight", axis=1)
        bias = self._corrected(bias, weight, columns.floats, name, smoothed)
        self._finish(self._node("MatMul", [restored, weights], f"{name}/product"), bias, name, output)

    def _blocks(
        self,
        value: str,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        place: Place,
        bits: int,
        output: str,
    ) -> None:
        """MatMulNBits: blocks of each column, unpacked inside the kernel."""
        recipe, name = self._recipe, place.matrix.name
        blocks = round_blocks(
            weight, bits=bits, block=recipe.block, asymmetric=recipe.asymmetric and bits == 4, search=recipe.search
        )
        bias = self._corrected(bias, weight, blocks.floats, name)
        values = pack_nibbles(blocks.values) if bits == 4 else blocks.values
        zeros = pack_nibbles(blocks.zeros) if bits == 4 else blocks.zeros
        inputs = [value, self._graph.add(f"{place.weight}.int{bits}", values)]
        inputs.append(self._graph.add(f"{place.weight}.scales", blocks.scales))
        inputs.append(self._graph.add(f"{place.weight}.zeros", zeros) if recipe.asymmetric and bits == 4 else "")
        if bias is not None:
            inputs += ["", self._graph.add(f"{name}/bias", bias)]
        rows, columns = weight.shape
        self._nodes.append(
            helper.make_node(
                "MatMulNBits",
                inputs,
                [output],
                name=f"{name}/product",
                domain=CONTRIB,
                K=rows,
                N=columns,
                bits=bits,
                block_size=recipe.block,
                accuracy_level=recipe.accuracy_level,
            )
        )

    def _table(self, node: onnx.NodeProto, place: Place) -> None:
        """The table of word vectors: codes and scales are looked up, and multiplied."""
        table = np.asarray(self._graph.values(place.weight), np.float32)
        ids, name, output = node.input[1], place.matrix.name, node.output[0]
        kind = self._recipe.embeddings
        if kind == "fp32":  # a half type's recipe
            half = self._half(place.weight, table, self._recipe.scheme)
            self._nodes.append(helper.make_node("Gather", [half, ids], [output], name=node.name))
        elif kind == "int8":
            codes, scales = round_rows(table)
            found = self._node("Gather", [self._graph.add(f"{place.weight}.int8", codes), ids], f"{name}/codes")
            floats = self._node("Cast", [found], f"{name}/floats", to=TensorProto.FLOAT)
            scale = self._node("Gather", [self._graph.add(f"{place.weight}.scales", scales), ids], f"{name}/scale")
            self._nodes.append(helper.make_node("Mul", [floats, scale], [output], name=node.name))
        else:
            if table.shape[1] % 32:
                raise InputError(
                    f"the word table has {table.shape[1]} columns, no multiple of 32, which int4 needs: "
                    'say embeddings = "int8" in the recipe'
                )
            blocks = round_blocks(table.T, bits=4, block=32, asymmetric=True, search=True)
            codes = pack_nibbles(blocks.values.reshape(len(table), -1))
            inputs = [self._graph.add(f"{place.weight}.int4", codes), ids]
            inputs.append(self._graph.add(f"{place.weight}.scales", blocks.scales))
            inputs.append(self._graph.add(f"{place.weight}.zeros", pack_nibbles(blocks.zeros)))
            attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": 32, "bits": 4}
            self._nodes.append(
                helper.make_node("GatherBlockQuantized", inputs, [output], name=node.name, domain=CONTRIB, **attributes)
            )

    def _half(self, name: str, weight: NDArray[np.float32], scheme: str) -> str:
        """A weight stored in a half type; ONNX Runtime widens it when it loads."""
        if (name, "half") in self._shared:
            return self._shared[name, "half"][0]
        if scheme == "fp16":
            if weight.size and np.abs(weight).max() > np.finfo(np.float16).max:
                raise InputError(f"the weight {name} holds more than fp16 can: use the recipe bf16")
            stored = self._graph.add(f"{name}.fp16", weight.astype(np.float16))
        else:
            bits = weight.view(np.uint32)  # round to nearest, ties to even
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            stored = self._graph.add(f"{name}.bf16", rounded, TensorProto.BFLOAT16)
        self._shared[name, "half"] = (self._node("Cast", [stored], f"{name}/wide", to=TensorProto.FLOAT),)
        return self._shared[name, "half"][0]

    def _smooth(
        self, value: str, weight: NDArray[np.float32], place: Place
    ) -> tuple[str, NDArray[np.float32], NDArray[np.float32] | None]:
        """Moves spread from the activations' columns into the weight's rows (SmoothQuant, arXiv:2211.10438, equation 4). The
        norm before cannot take the factors, as the residual reads it too, so that they are multiplied with explicitly."""
        alpha = self._recipe.smoothquant
        if alpha is None or self._bound(value) is not None:  # an activation's spread is in its rows, not its columns
            return value, weight, None
        seen = np.maximum(self._ranges[place.matrix.name].columns, np.float32(1e-5))
        rows = np.maximum(np.abs(weight).max(axis=1), 1e-5)
        factors = (seen**alpha / rows ** (1 - alpha)).astype(np.float32)
        factors = np.maximum(factors / np.float32(np.exp(np.log(factors).mean())), np.float32(1e-3))
        key = (value, "smooth")
        if key in self._shared:  # two weights on one tensor: the first one's factors serve both
            (smoothed, stored) = self._shared[key]
            factors = np.asarray(self._graph.values(stored)) ** -1
        else:
            stored = self._graph.add(f"{value}/smooth_factors", (1 / factors).astype(np.float32))
            smoothed = self._node("Mul", [value, stored], f"{value}/smooth")
            self._shared[key] = (smoothed, stored)
        return smoothed, weight * factors[:, None], factors

    def _corrected(
        self,
        bias: NDArray[np.float32] | None,
        weight: NDArray[np.float32],
        rounded: NDArray[np.float32],
        name: str,
        factors: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32] | None:
        """The bias without the mean error that the weight's rounding makes of the activations' mean."""
        if not self._recipe.bias_correction:
            return bias
        mean = self._ranges[name].mean.astype(np.float64)
        mean = mean if factors is None else mean / factors
        error = (mean @ (weight - rounded)).astype(np.float32)
        return error if bias is None else bias + error

    @property
    def _limit(self) -> int:
        return 63 if self._recipe.reduced_range else 127

    def _finish(self, value: str, bias: NDArray[np.float32] | None, name: str, output: str) -> None:
        """Gives a value the product's old name, the bias added."""
        if bias is None:
            self._nodes.append(helper.make_node("Identity", [value], [output], name=f"{name}/output"))
            return
        stored = self._graph.add(f"{name}/bias", bias)
        self._nodes.append(helper.make_node("Add", [value, stored], [output], name=f"{name}/output"))

    def _node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: object) -> str:
        """A node with one output, of the same name."""
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def _constant(self, name: str, value: np.generic) -> str:
        return self._graph.add(f"quantize/{name}", np.asarray(value))

    def _axis(self) -> str:
        return self._graph.add("quantize/last", np.array([-1], np.int64))

    def _middles(self, row: str) -> str:
        """128 for each row of the batch, uint8, (tokens,)."""
        key = ("middles",)
        if key not in self._shared:
            shape = self._node("Shape", [row], "quantize/rows")
            value = helper.make_tensor("value", TensorProto.UINT8, [1], [128])
            self._shared[key] = (self._node("ConstantOfShape", [shape], "quantize/middles", value=value),)
        return self._shared[key][0]

    @staticmethod
    def _stored(place: Place, smoothed: NDArray[np.float32] | None) -> str:
        """The name of a rounded weight: layers may share one, but not what smoothing made of it."""
        return place.weight if smoothed is None else place.matrix.name
