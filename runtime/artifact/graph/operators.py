"""Operators of Fletcher's graphs, by target. A test compares them with what `convert` and `quantize` write."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..manifest import Target, Variant

__all__ = ["EMITTED", "FLETCHER", "QUANTIZED", "TRACED", "WITH_KERNELS", "allowed_operators"]

#: Domain and name of an operator. The domain of standard operators is empty.
Operator = tuple[str, str]

#: Domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"

#: Domain of Fletcher's own operators (runtime/kernels).
FLETCHER = "fletcher"


def _standard(names: str) -> frozenset[Operator]:
    return frozenset(("", name) for name in names.split())


def _microsoft(names: str) -> frozenset[Operator]:
    return frozenset((MICROSOFT, name) for name in names.split())


#: Operators that every target has.
_EVERYWHERE = _standard(
    "Abs Add Cast Concat Div Exp Gelu Greater Identity LayerNormalization Log MatMul Max Min Mul ReduceMax ReduceSum Relu "
    "Reshape Sigmoid Slice Split Sqrt Squeeze Sub Tanh Unsqueeze"
)

EMITTED: Mapping[Target, frozenset[Operator]] = MappingProxyType(
    {
        "cpu": _EVERYWHERE
        | _standard(
            "Attention CumSum Equal Gather GatherElements Gemm Less Mod NonZero Not RMSNormalization Range RotaryEmbedding "
            "Shape Softmax TopK Transpose Where",
        ),
        "cuda": _EVERYWHERE
        | _standard("Gather GatherElements Gemm RMSNormalization RotaryEmbedding Softmax Transpose")
        | _microsoft("BiasGelu FastGelu GroupQueryAttention PackedMultiHeadAttention SkipLayerNormalization"),
        "tensorrt": _EVERYWHERE | _standard("Gather GatherElements Softmax Transpose"),
        "coreml": _EVERYWHERE | _standard("Clip Softmax Transpose"),
    }
)

#: Operators that a target's graphs have besides, if they were exported with Fletcher's kernels.
WITH_KERNELS: Mapping[Target, frozenset[Operator]] = MappingProxyType(
    {
        "cuda": _standard("Attention")
        | frozenset((FLETCHER, name) for name in ("GatedActivation", "HeadNormRotary", "SkipRmsNorm"))
    }
)

#: Operators that a recipe writes into a graph of any target.
QUANTIZED = _standard(
    "Abs Add Cast ConstantOfShape DequantizeLinear DynamicQuantizeLinear Gather Identity MatMul Max Mul QuantizeLinear "
    "ReduceMax Shape Squeeze"
) | _microsoft("GatherBlockQuantized MatMulIntegerToFloat MatMulNBits")

#: Standard operators of traced graphs: those of torch's modules for text. There are no loops, branches and random numbers.
TRACED = EMITTED["cpu"] | _standard(
    "And Clip Constant ConstantOfShape Conv Cos Einsum Erf Expand Floor Flatten Gemm GreaterOrEqual IsNaN LessOrEqual "
    "LogSoftmax Neg Or Pad Pow Range Reciprocal ReduceL2 ReduceMean ReduceMin ReduceProd Round ScatterElements ScatterND "
    "Sign Sin Softmax Softplus Tile TopK Transpose Trilu"
)


def allowed_operators(variant: Variant) -> frozenset[Operator]:
    """Return domain and name of each operator that a variant's graph may have."""
    allowed = TRACED
    if variant.exporter == "fletcher":
        allowed = EMITTED[variant.target] | WITH_KERNELS.get(variant.target, frozenset())
    return allowed | QUANTIZED if variant.recipe is not None else allowed
