"""Scores by content and distance (DeBERTa): products of queries and keys with tables of distances, put in their places.

A product has one column for each distance, and the scores need the column of the distance i - j at row i and column j. There
are two ways. `Skew` looks up the tables' rows in the order of distances, so that each row of the product is the one above it
shifted by one place, which two reshapes undo. On a processor that takes a tenth of the time of `GatherElements` for texts of
16 tokens, and half of it for 128. It needs the length of the rectangle as a number. `Lookup` is `GatherElements` with an
index for each score, for devices, whose graphs compute no shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...architecture import Architecture, Attention, Disentangled
from ...checkpoint.tensors import Weight, constant
from ...graph.builder import GraphBuilder

__all__ = ["ByDistance", "Lookup", "Skew", "emit_by_distance", "emit_lookup", "emit_rows", "find_disentangled"]

#: Numbers of rows are stored as floats, as two digits of this base, which every half type holds exactly.
_BASE = 256
_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Skew:
    """Scores by two reshapes.

    Attributes:
        ahead: adds a table's rows in the order of the distances longest, longest - 1, …, 1 - longest, (heads, 2 · longest,
            head_size): the table, and the prefix of the nodes' names.
        behind: the same for -longest, 1 - longest, …, longest - 1.
        tall: shape for Reshape of (texts, heads, 2 · longest, longest).
        wide: shape for Reshape of (texts, heads, longest, 2 · longest - 1).
        longest: tokens of the longest text, int64, (1,).
    """

    ahead: Callable[[Weight, str], str]
    behind: Callable[[Weight, str], str]
    tall: str
    wide: str
    longest: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """Scores by an index.

    Attributes:
        index: row of the tables for each score, int32, (texts, heads, longest, longest).
    """

    index: str


#: Ways to put products in their places.
ByDistance = Skew | Lookup


def find_disentangled(architecture: Architecture) -> Disentangled | None:
    """Return the bias by content and distance of the first layer that has one; all layers have the same rows."""
    found = (attention.disentangled for attention in architecture.attentions)
    return next((part for part in found if part is not None), None)


def emit_rows(graph: GraphBuilder, disentangled: Disentangled, to: int) -> str:
    """Add the row of each distance from 1 - positions to positions - 1.

    Args:
        graph: graph to add to.
        disentangled: the bias.
        to: element type of the numbers, of `TensorProto`.

    Returns:
        (2 · positions - 1,).
    """
    rows = np.array(disentangled.rows, np.int64)
    name = f"positions/{disentangled.name}"
    digits = []
    for digit, values in (("high", rows // _BASE), ("low", rows % _BASE)):
        weight = graph.weight(constant(f"{disentangled.name}.{digit}", values.astype(np.float32)))
        floats = graph.node("Identity", [weight], f"{name}/{digit}_floats")  # the builder types no input of a Cast
        digits.append(graph.node("Cast", [floats], f"{name}/{digit}", to=to))
    kind = np.int32 if to == _INT32 else np.int64
    high = graph.node("Mul", [digits[0], graph.constant(np.array(_BASE, kind))], f"{name}/high_part")
    return graph.node("Add", [high, digits[1]], f"{name}/rows")


_INT32 = 6


def emit_lookup(graph: GraphBuilder, architecture: Architecture, steps: str, texts: str) -> Lookup:
    """Add the index of `Lookup`.

    Args:
        graph: graph to add to.
        architecture: an architecture with such a bias.
        steps: 0, 1, … longest - 1, int32, (longest,).
        texts: an int32 value of the graph, (texts, longest), for the number of texts.
    """
    attention = next(part for part in architecture.attentions if part.disentangled is not None)
    disentangled = attention.disentangled
    assert disentangled is not None
    name = f"positions/{disentangled.name}"
    middle = graph.constant(np.array((len(disentangled.rows) - 1) // 2, np.int32))
    query = graph.node("Unsqueeze", [steps, graph.constant([1])], f"{name}/query")
    distance = graph.node("Sub", [query, steps], f"{name}/distance")  # query - key
    place = graph.node("Add", [distance, middle], f"{name}/place")
    index = graph.node("Gather", [emit_rows(graph, disentangled, _INT32), place], f"{name}/by_pair")
    # The operator takes an index for each score: add zeros for each text and each head.
    zeros = graph.node("Mul", [texts, graph.constant(np.array(0, np.int32))], f"{name}/zeros")
    zeros = graph.node("Unsqueeze", [zeros, graph.constant([1, 3])], f"{name}/zeros_of_texts")
    heads = graph.constant(np.zeros((attention.num_heads, 1, 1), np.int32))
    zeros = graph.node("Add", [zeros, heads], f"{name}/zeros_of_heads")  # (texts, heads, longest, 1)
    return Lookup(graph.node("Add", [zeros, index], f"{name}/index"))


def emit_by_distance(
    graph: GraphBuilder, attention: Attention, rows: tuple[str, str], way: ByDistance, name: str
) -> str:
    """Add the scores by content and distance, (texts, heads, longest, longest).

    Args:
        graph: graph to add to.
        attention: an attention with such a bias.
        rows: query and key, (texts, heads, longest, head_size).
        way: way to put the products in their places.
        name: name of the attention.
    """
    disentangled = attention.disentangled
    assert disentangled is not None
    query, key = rows
    terms = []
    if (table := disentangled.keys) is not None:
        part = f"{name}/by_key_position"
        if isinstance(way, Skew):
            terms.append(_emit_skewed(graph, query, way.ahead(table, part), way, part))
        else:
            columns = graph.node("Transpose", [graph.weight(table)], f"{part}/columns", perm=(0, 2, 1))
            product = graph.node("MatMul", [query, columns], f"{part}/product")
            terms.append(graph.node("GatherElements", [product, way.index], f"{part}/scores", axis=3))
    if (table := disentangled.queries) is not None:
        part = f"{name}/by_query_position"
        if isinstance(way, Skew):
            turned = _emit_skewed(graph, key, way.behind(table, part), way, part)  # (texts, heads, key, query)
            terms.append(graph.node("Transpose", [turned], f"{part}/scores", perm=(0, 1, 3, 2)))
        else:
            turned = graph.node("Transpose", [key], f"{part}/key", perm=(0, 1, 3, 2))
            product = graph.node("MatMul", [graph.weight(table), turned], f"{part}/product")
            terms.append(graph.node("GatherElements", [product, way.index], f"{part}/scores", axis=2))
    return terms[0] if len(terms) == 1 else graph.node("Add", terms, f"{name}/by_position")


def _emit_skewed(graph: GraphBuilder, content: str, table: str, way: Skew, name: str) -> str:
    """Add content · tableᵀ, and put element c of row i at column i + c - longest."""
    columns = graph.node("Transpose", [table], f"{name}/columns", perm=(0, 2, 1))
    product = graph.node("MatMul", [content, columns], f"{name}/product")  # (texts, heads, longest, 2 · longest)
    tall = graph.node("Reshape", [product, way.tall], f"{name}/tall")
    cut = graph.node("Slice", [tall, graph.constant([1]), graph.constant([_END]), graph.constant([2])], f"{name}/cut")
    wide = graph.node("Reshape", [cut, way.wide], f"{name}/wide")
    return graph.node("Slice", [wide, graph.constant([0]), way.longest, graph.constant([3])], f"{name}/skewed")
