"""What an attention computes between its projections and its context, in the graphs of every target.

The operator `Attention` (cpu) keeps it to itself. Beside each such node stand four copies of it with the same inputs and
attributes and the fourth output that ONNX gives it, `qk_matmul_output`; the first copy has scale 1. In ONNX Runtime 1.32
(CPU, opset 24) mode 0 gives the scaled products, 2 those with bias and mask added (-3.4e38 on padding, with
`nonpad_kv_seqlen` and with masks), 3 the softmax. A node that is asked for them may take another kernel, which is equal to
rounding: tests/convert/layers/test_probe.py recomputes all of them with numpy, and the served node's context from them.

Where attention is spelled out (tensorrt, coreml), its values are read; the query is scaled before the product there, so raw
scores do not exist. `PackedMultiHeadAttention` (cuda) shows nothing.
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

from .points import SCORE_POINTS

__all__ = ["OUT_OF_SIGHT", "Shown", "copies_of", "shown_by", "split_scores"]

#: A score lower than it was before the mask by more than this is masked: learned biases and ALiBi stay far below.
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
        raw: query · keyᵀ, where it exists.
        scaled: times the scale.
        masked: plus bias and mask.
        softmax: of that.
    """

    raw: str | None
    scaled: str
    masked: str
    softmax: str

    @property
    def values(self) -> list[str]:
        return [value for value in (self.raw, self.scaled, self.masked, self.softmax) if value is not None]


def shown_by(node: onnx.NodeProto) -> Shown | None:
    """The scores that a node computes, if it is the one that computes a layer's last scores."""
    if node.op_type == "Attention":
        return Shown(*(f"{node.name}#{suffix}" for suffix, _, _ in _COPIES))
    if node.op_type == "Softmax" and node.name.endswith("/attention/weights"):
        stem = node.name.removesuffix("/weights")
        return Shown(None, f"{stem}/scores", f"{stem}/masked_scores", f"{stem}/weights")
    return None


def copies_of(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Copies of an `Attention` node that give what `shown_by` names."""
    return [_copy(node, *copy) for copy in _COPIES] if node.op_type == "Attention" else []


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
    """A layer's scores by point and text, without the rows of padding.

    Args:
        shown: names of the values.
        arrays: the values.
        batch: the texts.

    Returns:
        (heads, tokens, tokens) for each text; the mask and the softmax go on to the longest text, and sums have no last axis.
        What is masked is 0 in `biased_scores`.
    """
    scaled, masked, softmax = arrays[shown.scaled], arrays[shown.masked], arrays[shown.softmax]
    with np.errstate(invalid="ignore", over="ignore"):
        seen = masked - scaled > -OUT_OF_SIGHT
    biased = np.where(seen, masked, np.float32(0))
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SCORE_POINTS}
    for row, size in enumerate(batch.lengths.tolist()):
        if shown.raw is not None:
            found["attention/raw_scores"].append(arrays[shown.raw][row, :, :size, :size])
        found["attention/scaled_scores"].append(scaled[row, :, :size, :size])
        found["attention/mask"].append(seen[row, :, :size].astype(np.float32))
        found["attention/biased_scores"].append(biased[row, :, :size, :size])
        found["attention/softmax"].append(softmax[row, :, :size])
        found["attention/softmax_sums"].append(softmax[row, :, :size].sum(axis=-1))
    return {name: rows for name, rows in found.items() if rows}
