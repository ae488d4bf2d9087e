"""Registry of execution providers, in the order of preference without a measurement.

To add a provider, write a folder here with its `Provider` object, and add one line below. Loading, memory limits, tuning,
`fletcher-serve devices` and error messages use the object.
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
