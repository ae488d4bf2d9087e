"""The execution providers that Fletcher has, in the order of preference where nothing was measured.

To add a provider: write one folder here with its `Provider` object, and add one line below. Loading, memory limits, tuning,
`fletcher-serve devices` and the error messages follow from the object.
"""

from __future__ import annotations

from .coreml.provider import COREML, COREML_ANE, COREML_CPU, COREML_GPU
from .cuda.provider import CUDA
from .mlas.provider import MLAS
from .openvino.provider import OPENVINO, OPENVINO_BF16
from .provider import Provider
from .tensorrt.provider import TENSORRT, TENSORRT_RTX

__all__ = ["PROVIDERS"]

PROVIDERS: tuple[Provider, ...] = (
    MLAS,
    OPENVINO,
    OPENVINO_BF16,
    CUDA,
    TENSORRT,
    TENSORRT_RTX,
    COREML,
    COREML_GPU,
    COREML_ANE,
    COREML_CPU,
)
