"""Element types, and the choice of one for each node of a graph.

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

__all__ = ["ALWAYS_FP32", "FLOATS", "FP32", "RMS_STEPS", "Float", "FloatType", "Precision", "is_fp32_step"]

Float = Literal["fp32", "fp16", "bf16"]

#: Beginnings of the names of nodes that are fp32 in every precision: the modules after the encoder take little time, and half
#: precision cannot hold a sum of squares or a mean over 8,192 tokens.
ALWAYS_FP32 = ("modules.", "vectors", "scores", "sparse", "token_vectors", "token_weights", "token_states")

#: Parts of the names of nodes that are fp32 in every precision: the steps of an RMS norm in graphs without an operator for
#: it, whose squares overflow a half type; and the choice of experts. The models' own code computes both in float32, too.
RMS_STEPS, ROUTER_STEPS = "/rms/", "/router/"

#: Names of lookups: if weights are only stored in half precision, rows are looked up first and cast to fp32 afterwards.
LOOKUPS = frozenset({"embeddings/word", "embeddings/position"})


def is_fp32_step(name: str) -> bool:
    """Return whether a node or a value belongs to steps that are fp32 in every precision."""
    return RMS_STEPS in name or ROUTER_STEPS in name


@dataclass(frozen=True, slots=True)
class FloatType:
    """Names of an element type in onnx, numpy and safetensors.

    Attributes:
        onnx: value of `TensorProto.DataType`.
        numpy: numpy's type.
        safetensors: name in a safetensors header.
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
    """Element types of a graph.

    Attributes:
        name: type in which weights are stored.
        arithmetic: type in which nodes compute; fp32 with a half `name` halves the storage alone.
        islands: names of nodes that compute in fp32 in any case.
        parts: beginnings of the names of further nodes that compute in fp32.
        operators: types of the operators that have no kernel for `arithmetic`.
        only: part of the names of the only nodes that compute in `arithmetic`. Default: all names.
    """

    name: Float
    arithmetic: Float
    islands: frozenset[str] = frozenset()
    parts: tuple[str, ...] = ALWAYS_FP32
    operators: Mapping[str, Float] = field(default_factory=dict)
    only: str = ""

    def of(self, operator: str, node: str) -> Float:
        """Return the type in which a node computes."""
        if self.arithmetic == "fp32":
            return self.name if node in LOOKUPS else "fp32"
        if self.only not in node or node in self.islands or node.startswith(self.parts) or is_fp32_step(node):
            return "fp32"
        return self.operators.get(operator, self.arithmetic)

    def stored(self, node: Float) -> Float:
        """Return the type in which the weight of a node of the type `node` is stored."""
        return self.name if self.arithmetic == "fp32" else node


FP32 = Precision("fp32", "fp32")
