"""Scores of an attention, from its projections to its context, in the graphs of every target.

The operator `Attention` (cpu) does not show them. Each such node gets four copies with the same inputs and attributes and the
operator's fourth output, `qk_matmul_output`; the first copy has scale 1. In ONNX Runtime 1.32
(CPU, opset 24) mode 0 gives the scaled products, 2 those with bias and mask added (-3.4e38 on padding, with
`nonpad_kv_seqlen` and with masks), 3 the softmax. A node with this output can run another kernel, which is equal up to
rounding: tests/convert/layers/test_probe.py recomputes all of them with numpy, and the served node's context from them.

Attention in standard operators (tensorrt, coreml) has the scores as values; the query is scaled before the product there, so
raw scores do not exist. `PackedMultiHeadAttention` (cuda) does not show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fletcher.runtime.encodings import Encodings

from .points import SCORE_POINTS, is_whole

__all__ = ["OUT_OF_SIGHT", "Shown", "copies_of", "shown_by", "split_scores"]

#: A score that the mask lowers by more than this is masked; learned biases and ALiBi lower it by far less.
OUT_OF_SIGHT = 1e3

#: Copies of an attention node: suffix of their names, `qk_matmul_output_mode`, and attributes that differ.
_COPIES: Sequence[tuple[str, int, Mapping[str, float]]] = (
    ("raw", 0, MappingProxyType({"scale": 1.0})),
    ("scaled", 0, MappingProxyType({})),
    ("masked", 2, MappingProxyType({})),
    ("softmax", 3, MappingProxyType({})),
)
_CONTEXT, _SCORES = 0, 3  # places among Attention's outputs: Y, present_key, present_value, qk_matmul_output


@dataclass(frozen=True, slots=True)
class Shown:
    """Names of a layer's values, each (texts, heads, longest, longest).

    Attributes:
        raw: query · keyᵀ, if the graph computes it.
        scaled: raw scores times the scale.
        masked: scaled scores plus bias and mask.
        softmax: softmax of the masked scores.
    """

    raw: str | None
    scaled: str
    masked: str
    softmax: str

    @property
    def values(self) -> list[str]:
        return [value for value in (self.raw, self.scaled, self.masked, self.softmax) if value is not None]


def shown_by(node: onnx.NodeProto) -> Shown | None:
    """Return the names of a layer's scores, if the node is its attention or the softmax of its attention."""
    if is_whole(node):
        return Shown(*(f"{node.name}#{suffix}" for suffix, _, _ in _COPIES))
    if node.op_type == "Softmax" and node.name.endswith("/attention/weights"):
        stem = node.name.removesuffix("/weights")
        return Shown(None, f"{stem}/scores", f"{stem}/masked_scores", f"{stem}/weights")
    return None


def copies_of(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return copies of an `Attention` node whose outputs are the scores that `shown_by` names."""
    return [_copy(node, *copy) for copy in _COPIES] if is_whole(node) else []


def _copy(node: onnx.NodeProto, suffix: str, mode: int, changed: Mapping[str, float]) -> onnx.NodeProto:
    name = f"{node.name}#{suffix}"
    outputs = [""] * (_SCORES + 1)
    outputs[_CONTEXT], outputs[_SCORES] = f"{name}/context", name
    copy = onnx.helper.make_node(node.op_type, list(node.input), outputs, name=name, domain=node.domain)
    attributes: dict[str, Any] = {"qk_matmul_output_mode": mode, **changed}
    copy.attribute.extend(attribute for attribute in node.attribute if attribute.name not in attributes)
    copy.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())
    return copy


def split_scores(
    shown: Shown, arrays: Mapping[str, NDArray[np.float32]], batch: Encodings
) -> dict[str, list[NDArray[np.float32]]]:
    """Return a layer's scores by point and text, without the rows of padding.

    Args:
        shown: names of the values.
        arrays: values by name.
        batch: texts of the batch.

    Returns:
        (heads, tokens, tokens) for each text; the last axis of the mask and of the softmax is that of the longest text, and
        sums have no last axis. Masked scores are 0 in `biased_scores`.
    """
    scaled, masked, softmax = arrays[shown.scaled], arrays[shown.masked], arrays[shown.softmax]
    with np.errstate(invalid="ignore", over="ignore"):
        seen = masked - scaled > -OUT_OF_SIGHT
    biased = np.where(seen, masked, np.float32(0))
    scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SCORE_POINTS}
    for row, size in enumerate(batch.lengths.tolist()):
        if shown.raw is not None:
            scores["attention/raw_scores"].append(arrays[shown.raw][row, :, :size, :size])
        scores["attention/scaled_scores"].append(scaled[row, :, :size, :size])
        scores["attention/mask"].append(seen[row, :, :size].astype(np.float32))
        scores["attention/biased_scores"].append(biased[row, :, :size, :size])
        scores["attention/softmax"].append(softmax[row, :, :size])
        scores["attention/softmax_sums"].append(softmax[row, :, :size].sum(axis=-1))
    return {name: rows for name, rows in scores.items() if rows}
