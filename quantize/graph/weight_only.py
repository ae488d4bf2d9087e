"""Smaller weights with activations in floats: blocks, half types, bytes that are widened at load, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.runtime.errors import InputError

from ..recipe import Recipe
from .editor import CONTRIB
from .matrices import Place
from .nodes import Nodes, Product
from .rounding import STRIP, mean_error, pack_nibbles, round_blocks, round_columns, round_rows

__all__ = ["write_blocks", "write_half", "write_table", "write_widened"]

#: Elements per scale of the word table in int4.
TABLE_BLOCK = 32


def write_blocks(
    nodes: Nodes, product: Product, recipe: Recipe, bits: int, mean: NDArray[np.float32] | None = None
) -> None:
    """Write MatMulNBits, whose kernel unpacks blocks of each column.

    Args:
        nodes: receives the nodes.
        product: the product to rewrite.
        recipe: chooses block size, zero points and search.
        bits: 4 or 8.
        mean: mean of each column of the activations, (in,), for bias correction; None for no correction.
    """
    asymmetric = recipe.asymmetric and bits == 4
    weight, bias, stored = product.weight, product.bias, product.place.weight
    blocks = round_blocks(weight, bits=bits, block=recipe.block, asymmetric=asymmetric, search=recipe.search)
    if mean is not None:
        error = mean_error(mean, weight, blocks)
        bias = np.asarray(error if bias is None else bias + error, np.float32)
    values = pack_nibbles(blocks.values) if bits == 4 else blocks.values
    inputs = [product.value, nodes.graph.add(f"{stored}.blocks{bits}", values)]
    inputs.append(nodes.graph.add(f"{stored}.blocks{bits}.scales", blocks.scales))
    inputs.append(nodes.graph.add(f"{stored}.blocks{bits}.zeros", pack_nibbles(blocks.zeros)) if asymmetric else "")
    if bias is not None:
        inputs += ["", nodes.graph.add(f"{product.name}/bias", bias)]
    rows, columns = weight.shape
    attributes = {"K": rows, "N": columns, "bits": bits, "block_size": recipe.block}
    nodes.written.append(
        helper.make_node(
            "MatMulNBits",
            inputs,
            [product.output],
            name=f"{product.name}/product",
            domain=CONTRIB,
            accuracy_level=recipe.accuracy_level,
            **attributes,
        )
    )


def write_widened(nodes: Nodes, product: Product, recipe: Recipe) -> None:
    """Write bytes with one scale per column, which ONNX Runtime widens while it loads the graph, before a provider gets it.

    A provider without integer kernels then gets the same nodes as with the float graph, from a smaller file. OpenVINO keeps
    the bytes, and computes with them. The
    multiplication is in float32, because ONNX Runtime has no half kernel for it and would leave the nodes to the provider.
    """
    columns = round_columns(product.weight, search=recipe.search)
    stored, kind = product.place.weight, product.kind
    codes = nodes.graph.add(f"{stored}.int8", columns.values)
    scales = nodes.graph.add(f"{stored}.scales", columns.scales)
    key = (stored, "widened")
    if key not in nodes.shared:
        floats = nodes.node("Cast", [codes], f"{stored}/floats", to=TensorProto.FLOAT)
        wide = nodes.node("Mul", [floats, scales], f"{stored}/wide")
        if kind != np.float32:
            wide = nodes.node("Cast", [wide], f"{stored}/narrow", to=helper.np_dtype_to_tensor_dtype(kind))
        nodes.shared[key] = (wide,)
    value = nodes.node("MatMul", [product.value, nodes.shared[key][0]], f"{product.name}/product")
    nodes.finish(product, value, product.bias)


def write_half(nodes: Nodes, name: str, weight: NDArray[np.float32], scheme: str) -> str:
    """Write a weight in a half type, which ONNX Runtime widens at load, and return the name of the float32 value.

    Raises:
        InputError: an element exceeds the range of fp16.
    """
    key = (name, "half")
    if key in nodes.shared:
        return nodes.shared[key][0]
    if scheme == "fp16":
        if weight.size and max(weight.max(), -weight.min()) > np.finfo(np.float16).max:
            raise InputError(f"an element of the weight {name} exceeds the range of fp16: use the recipe bf16")
        stored = nodes.graph.add(f"{name}.fp16", weight.astype(np.float16))
    else:
        stored = nodes.graph.add(f"{name}.bf16", _to_bf16(weight), TensorProto.BFLOAT16)
    nodes.shared[key] = (nodes.node("Cast", [stored], f"{name}/wide", to=TensorProto.FLOAT),)
    return nodes.shared[key][0]


def _to_bf16(weight: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of elements in bfloat16, rounded to nearest, ties to even; a copy of some rows at a time."""
    rounded = np.empty(weight.shape, np.uint16)
    step = max(1, STRIP // max(1, weight.shape[-1]))
    for start in range(0, len(weight), step):
        bits = np.ascontiguousarray(weight[start : start + step]).view(np.uint32)
        rounded[start : start + step] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded


def write_table(nodes: Nodes, node: onnx.NodeProto, place: Place, recipe: Recipe) -> None:
    """Write the lookup of the word table: codes and scales are gathered and multiplied.

    Raises:
        InputError: the width of the table is not a multiple of the block size of int4.
    """
    graph, stored = nodes.graph, place.weight
    kind = graph.values(stored).dtype
    table = np.asarray(graph.values(stored), np.float32)
    ids, name, output = node.input[1], place.matrix.name, node.output[0]
    if recipe.embeddings == "fp32":  # the recipe has a half type
        half = write_half(nodes, stored, table, recipe.scheme)
        nodes.written.append(helper.make_node("Gather", [half, ids], [output], name=node.name))
    elif recipe.embeddings == "int8":
        codes, scales = round_rows(table)
        rows = nodes.node("Gather", [graph.add(f"{stored}.int8", codes), ids], f"{name}/codes")
        floats = nodes.node("Cast", [rows], f"{name}/floats", to=helper.np_dtype_to_tensor_dtype(kind))
        scale = nodes.node("Gather", [graph.add(f"{stored}.scales", scales.astype(kind)), ids], f"{name}/scale")
        nodes.written.append(helper.make_node("Mul", [floats, scale], [output], name=node.name))
    else:
        if table.shape[1] % TABLE_BLOCK:
            raise InputError(
                f"the word table has {table.shape[1]} columns, and int4 needs a multiple of {TABLE_BLOCK}: "
                'set embeddings = "int8" in the recipe'
            )
        blocks = round_blocks(table.T, bits=4, block=TABLE_BLOCK, asymmetric=True, search=True)
        nibbles = pack_nibbles(blocks.values.reshape(len(table), -1))
        inputs = [graph.add(f"{stored}.int4", nibbles), ids, graph.add(f"{stored}.scales", blocks.scales.astype(kind))]
        inputs.append(graph.add(f"{stored}.zeros", pack_nibbles(blocks.zeros)))
        attributes: dict[str, Any] = {"gather_axis": 0, "quantize_axis": 1, "block_size": TABLE_BLOCK, "bits": 4}
        nodes.written.append(
            helper.make_node("GatherBlockQuantized", inputs, [output], name=node.name, domain=CONTRIB, **attributes)
        )
