"""Element types, and which one each node of a graph computes in.

A graph is written in its types from the start: the builder asks the `Precision` for every node's type, takes the weights and
constants in that type, and puts a `Cast` where a value of another one comes in. Nothing is converted afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import ml_dtypes
import numpy as np
from onnx import TensorProto

__all__ = ["ALWAYS_FP32", "FLOATS", "FP32", "Float", "FloatType", "Precision"]

Float = Literal["fp32", "fp16", "bf16"]

#: Nodes, by the beginnings of their names, that are fp32 in every precision: what follows the encoder costs next to nothing,
#: and a norm of squares or a mean over 8,192 tokens is more than half precision can hold.
ALWAYS_FP32 = ("modules.", "vectors", "scores", "sparse", "token_vectors", "token_states")

#: Nodes that are lookups: where weights are only stored in half precision, the rows are looked up first and widened then.
LOOKUPS = frozenset({"embeddings/word", "embeddings/position"})


@dataclass(frozen=True, slots=True)
class FloatType:
    """An element type by its many names.

    Attributes:
        onnx: of `TensorProto.DataType`.
        numpy: for arrays.
        safetensors: in a safetensors header.
        largest: largest finite number.
    """

    onnx: int
    numpy: np.dtype[Any]
    safetensors: str
    largest: float


FLOATS: Mapping[Float, FloatType] = MappingProxyType(
    {
        "fp32": FloatType(TensorProto.FLOAT, np.dtype(np.float32), "F32", float(np.finfo(np.float32).max)),
        "fp16": FloatType(TensorProto.FLOAT16, np.dtype(np.float16), "F16", float(np.finfo(np.float16).max)),
        "bf16": FloatType(TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16), "BF16", (2 - 2**-7) * 2.0**127),
    }
)


@dataclass(frozen=True, slots=True)
class Precision:
    """The types of a graph.

    Attributes:
        name: what weights are stored in.
        arithmetic: what nodes compute in; fp32 with a half `name` halves the storage and nothing else.
        islands: names of nodes that compute in fp32 all the same.
        parts: beginnings of names of such nodes.
        operators: operators that have no kernel for `arithmetic`, and what they compute in instead.
    """

    name: Float
    arithmetic: Float
    islands: frozenset[str] = frozenset()
    parts: tuple[str, ...] = ALWAYS_FP32
    operators: Mapping[str, Float] = field(default_factory=dict)

    def of(self, operator: str, node: str) -> Float:
        """What a node computes in."""
        if self.arithmetic == "fp32":
            return self.name if node in LOOKUPS else "fp32"
        if node in self.islands or node.startswith(self.parts):
            return "fp32"
        return self.operators.get(operator, self.arithmetic)

    def stored(self, wanted: Float) -> Float:
        """What a weight is stored in that a node of the type `wanted` uses."""
        return self.name if self.arithmetic == "fp32" else wanted


FP32 = Precision("fp32", "fp32")
