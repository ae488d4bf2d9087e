"""A product with a weight, in integers: the nodes of every scheme. It chooses no scheme and measures nothing.

Per token: row r of the activations is scaled by its own largest element, so that no text depends on another one. With
q = round(x / s) + z, x W = s (q - z) V v, where V is the weight in int8 and v its scales by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.runtime.errors import InputError

from .activations import LOWER_BOUNDS, Activations, even_steps, uneven_steps
from .graph import CONTRIB, GraphEditor
from .matrices import Place
from .recipe import MatrixScheme, Recipe
from .rounding import pack_nibbles, round_blocks, round_columns, round_rows

__all__ = ["ProductWriter"]


class ProductWriter:
    """Writes the nodes that take a product's place. What several products need of one tensor is written once."""

    def __init__(self, graph: GraphEditor, recipe: Recipe, seen: dict[str, Activations] | None = None) -> None:
        """
        Args:
            graph: takes the new weights.
            recipe: how.
            seen: by matrix, what its activations are; see `calibration.needs_calibration`.
        """
        self._graph = graph
        self._recipe = recipe
        self._seen = seen or {}
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
        apart = self._apart(value, weight, name)
        value, weight = self._smooth(value, weight, name)
        if self._recipe.asymmetric and bound is not None:
            codes, scales, zero = self._shifted_rows(value, bound)
        else:
            bound = None
            codes, scales, zero = self._even_rows(value)
        columns = round_columns(weight, limit=self._limit, search=self._recipe.search)
        if bound:
            shift = (-bound * columns.floats.sum(axis=0, dtype=np.float64)).astype(np.float32)
            bias = shift if bias is None else bias + shift
        if self._recipe.bias_correction:  # rows' own scales leave no error in the mean but the weight's
            bias = _plus(bias, self._seen[name].mean.astype(np.float64) @ (weight - columns.floats))
        stored = self._stored(place)
        inputs = [codes, self._graph.add(f"{stored}.int8", columns.values), self._constant("one", np.float32(1))]
        inputs += [self._graph.add(f"{stored}.scales", columns.scales), zero]
        product = self._node("MatMulIntegerToFloat", inputs, f"{name}/integers", domain=CONTRIB)
        self._finish(self._node("Mul", [product, scales], f"{name}/scaled"), bias, name, output, apart)

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
        seen = self._seen[name]
        gpu = self._recipe.target in ("cuda", "tensorrt")
        steps = even_steps(seen.low, seen.high) if gpu else uneven_steps(seen.low, seen.high)
        apart = self._apart(value, weight, name)
        value, weight = self._smooth(value, weight, name)
        columns = round_columns(weight, limit=self._limit, search=self._recipe.search)
        if self._recipe.bias_correction:
            error = seen.mean.astype(np.float64) @ weight - seen.coded.astype(np.float64) @ columns.floats
            bias = _plus(bias, error)
        zero = np.int8(steps.zero) if gpu else np.uint8(steps.zero)
        pair = [self._constant(f"{name}/scale", np.float32(steps.scale)), self._constant(f"{name}/zero", zero)]
        quantised = self._node("QuantizeLinear", [value, *pair], f"{name}/q")
        stored = self._stored(place)
        codes, scales = self._graph.add(f"{stored}.int8", columns.values), f"{stored}.scales"
        self._graph.add(scales, columns.scales)
        if self._recipe.target == "cpu":  # MLAS' kernel by name: ONNX Runtime leaves these Q/DQ products in float32
            inputs = [quantised, codes, pair[0], scales, pair[1]]
            product = self._node("MatMulIntegerToFloat", inputs, f"{name}/integers", domain=CONTRIB)
        else:
            restored = self._node("DequantizeLinear", [quantised, *pair], f"{name}/dq")
            zeros = self._graph.add(f"{stored}.zeros", np.zeros(weight.shape[1], np.int8))
            weights = self._node("DequantizeLinear", [codes, scales, zeros], f"{name}/weight", axis=1)
            product = self._node("MatMul", [restored, weights], f"{name}/product")
        self._finish(product, bias, name, output, apart)

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
        if recipe.bias_correction:
            seen = self._seen[name]
            mean = (
                seen.mean if seen.factors is None else seen.mean * seen.factors
            )  # these kernels take the values as they are
            bias = _plus(bias, mean.astype(np.float64) @ (weight - blocks.floats))
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
            nibbles = pack_nibbles(blocks.values.reshape(len(table), -1))
            inputs = [self._graph.add(f"{place.weight}.int4", nibbles), ids]
            inputs.append(self._graph.add(f"{place.weight}.scales", blocks.scales))
            inputs.append(self._graph.add(f"{place.weight}.zeros", pack_nibbles(blocks.zeros)))
            attributes: dict[str, Any] = {"gather_axis": 0, "quantize_axis": 1, "block_size": 32, "bits": 4}
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

    def _smooth(self, value: str, weight: NDArray[np.float32], name: str) -> tuple[str, NDArray[np.float32]]:
        """Activations with their spread moved into the weight, and without the columns apart.

        The norm before them cannot take the factors, as the residual reads it too: they are multiplied with explicitly.
        """
        seen = self._seen.get(name)
        multipliers = None if seen is None else seen.multipliers
        if seen is None or multipliers is None:
            return value, weight
        key = (value, "smooth")
        if key not in self._shared:
            factors = self._graph.add(f"{value}/smooth_factors", multipliers)
            self._shared[key] = (self._node("Mul", [value, factors], f"{value}/smooth"),)
        return self._shared[key][0], seen.absorb(weight)

    def _apart(self, value: str, weight: NDArray[np.float32], name: str) -> str | None:
        """The product of the columns with the largest activations in float32 (after LLM.int8(), arXiv:2208.07339), or None.

        A few columns decide the scale of all the others: without them the others' steps are several times finer."""
        loud = self._seen[name].loud if self._recipe.outliers else np.empty(0, np.int64)
        if not len(loud):
            return None
        key = (value, "loud")
        if key not in self._shared:
            columns = self._graph.add(f"{value}/loud_columns", loud)
            self._shared[key] = (self._node("Gather", [value, columns], f"{value}/loud", axis=-1),)
        rows = self._graph.add(f"{name}/loud_rows", np.ascontiguousarray(weight[loud]))
        return self._node("MatMul", [self._shared[key][0], rows], f"{name}/apart")

    @property
    def _limit(self) -> int:
        return 63 if self._recipe.reduced_range else 127

    def _finish(
        self, value: str, bias: NDArray[np.float32] | None, name: str, output: str, apart: str | None = None
    ) -> None:
        """Gives a value the product's old name, the bias and what was multiplied apart added."""
        if apart is not None:
            value = self._node("Add", [value, apart], f"{name}/joined")
        if bias is None:
            self._nodes.append(helper.make_node("Identity", [value], [output], name=f"{name}/output"))
            return
        stored = self._graph.add(f"{name}/bias", bias)
        self._nodes.append(helper.make_node("Add", [value, stored], [output], name=f"{name}/output"))

    def _node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
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

    def _stored(self, place: Place) -> str:
        """The name of a rounded weight: layers may share one, but not what smoothing made of it."""
        seen = self._seen.get(place.matrix.name)
        return place.weight if seen is None or seen.multipliers is None else place.matrix.name


def _plus(bias: NDArray[np.float32] | None, error: NDArray[np.float64]) -> NDArray[np.float32]:
    """The bias without an error that is made on average."""
    return np.asarray(error if bias is None else bias + error, np.float32)
