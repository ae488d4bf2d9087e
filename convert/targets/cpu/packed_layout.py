"""`PackedLayout`: places of the tokens in the packed rows and in the rectangle that attention needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...graph.builder import GraphBuilder

__all__ = ["PackedLayout", "emit_packed_layout"]

_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Names of the values that hold the places of the tokens.

    Attributes:
        starts: first token of each text, int64, (texts,).
        last: last token of each text, int64, (texts,).
        lengths: tokens of each text, int64, (texts,).
        steps: 0, 1, … longest - 1, int64, (longest,).
        valid: whether a cell of the rectangle holds a token, bool, (texts, longest).
        rectangle: packed row of each cell; padding repeats row 0, int64, (texts, longest).
        packed: cell of each packed row in the flattened rectangle, int64, (tokens,).
        positions: position of each token in its text, int64, (tokens,).
    """

    starts: str
    last: str
    lengths: str
    steps: str
    valid: str
    rectangle: str
    packed: str
    positions: str


def emit_packed_layout(graph: GraphBuilder, offsets: str) -> PackedLayout:
    """Add the layout from the `Encodings`' offsets, int64, (texts + 1,)."""
    zero, one, end = graph.constant([0]), graph.constant([1]), graph.constant([_END])
    first, step = graph.constant(0), graph.constant(1)
    starts = graph.node("Slice", [offsets, zero, graph.constant([-1])], "layout/starts")
    ends = graph.node("Slice", [offsets, one, end], "layout/ends")
    lengths = graph.node("Sub", [ends, starts], "layout/lengths")
    longest = graph.node("ReduceMax", [lengths], "layout/longest", keepdims=0)
    steps = graph.node("Range", [first, longest, step], "layout/steps")
    valid = graph.node(
        "Less", [steps, graph.node("Unsqueeze", [lengths, one], "layout/lengths_column")], "layout/valid"
    )
    column = graph.node("Unsqueeze", [starts, one], "layout/starts_column")
    rows = graph.node("Add", [column, steps], "layout/rows")
    flat = graph.node("Reshape", [valid, graph.constant([-1])], "layout/valid_flat")
    packed = graph.node("Squeeze", [graph.node("NonZero", [flat], "layout/nonzero"), zero], "layout/packed")
    return PackedLayout(
        starts=starts,
        last=graph.node("Sub", [ends, step], "layout/last"),
        lengths=lengths,
        steps=steps,
        valid=valid,
        rectangle=graph.node("Where", [valid, rows, first], "layout/rectangle"),
        packed=packed,
        positions=graph.node("Mod", [packed, longest], "layout/positions"),
    )
