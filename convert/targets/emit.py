"""The emitters of all targets behind one function, with their precisions and capabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from fletcher.runtime.artifact.graph.operators import FLETCHER
from fletcher.runtime.artifact.manifest import Target
from fletcher.runtime.errors import InputError

from ..architecture import Architecture, Pooling
from ..precision import ALWAYS_FP32, Float, Precision
from .coreml.emit import emit_coreml
from .cpu.emit import emit_cpu
from .cuda.emit import emit_cuda
from .shared.capabilities import ALL, Capabilities, check_capabilities
from .shared.emission import Emission
from .tensorrt.emit import emit_tensorrt

__all__ = ["CAPABILITIES", "PRECISIONS", "choose", "emit", "emit_with_kernels"]

#: Parts of an architecture that each target's emitter has nodes for.
CAPABILITIES: Mapping[str, Capabilities] = MappingProxyType(
    {"cpu": ALL, "cuda": ALL, "tensorrt": ALL, "coreml": replace(ALL, convolutions=False)}  # CoreML has no Gather
)

#: Precisions by target. On `cpu` half types only halve the file: x86 and MLAS compute in float32 (docs/reference/targets.md).
PRECISIONS: Mapping[Target, tuple[Float, ...]] = MappingProxyType(
    {
        "cpu": ("fp32", "fp16", "bf16"),
        "cuda": ("fp32", "fp16", "bf16"),
        "tensorrt": ("fp32", "fp16", "bf16"),
        "coreml": ("fp32", "fp16"),
    }
)

#: Beginnings of the names of nodes that bf16 graphs compute in fp32: bf16 cannot represent all distances above 256.
BF16_PARTS = (*ALWAYS_FP32, "positions/")

#: Part of the names of the nodes that compute in half types in models with experts. A rounded value before a router would
#: choose another expert for tokens whose shares are nearly equal, in torch as here.
EXPERT_PARTS = "/experts."


def choose(target: str, name: Float, islands: Iterable[str] = ()) -> Precision:
    """Return the types of a target's graph.

    Args:
        target: one of `PRECISIONS`.
        name: name of the precision.
        islands: names of nodes whose values a half type cannot hold.
    """
    if target == "cpu" or name == "fp32":
        return Precision(name, "fp32")
    if name == "bf16":
        return Precision(name, name, frozenset(islands), BF16_PARTS)
    return Precision(name, name, frozenset(islands))


def emit(
    target: str, architecture: Architecture, dimension: int, max_tokens: int, precision: Precision
) -> tuple[Emission, ...]:
    """Emit the graphs of a target.

    Args:
        target: one of `PRECISIONS`.
        architecture: encoder and modules.
        dimension: length of a vector.
        max_tokens: tokens of the longest text.
        precision: see `choose`.

    Raises:
        InputError: the target cannot emit a part of the architecture.
    """
    _check(target, architecture)
    return _EMITTERS[target](architecture, dimension, max_tokens, _around_experts(architecture, precision))


def emit_with_kernels(
    target: str, architecture: Architecture, dimension: int, max_tokens: int, precision: Precision
) -> tuple[Emission, ...]:
    """Emit the graphs of a target, those of `cuda` in half precision with Fletcher's own operators (runtime/kernels).

    Args:
        target, architecture, dimension, max_tokens, precision: as in `emit`.

    Raises:
        InputError: as in `emit`, or no operator can compute a part of the architecture.
    """
    if target != "cuda" or precision.arithmetic == "fp32":
        return emit(target, architecture, dimension, max_tokens, precision)
    _check(target, architecture)
    emission = emit_cuda(architecture, dimension, _around_experts(architecture, precision), with_kernels=True)
    if not any(domain == FLETCHER for domain, _ in emission.graph.operators):
        raise InputError(
            f"Fletcher's kernels can compute no part of this {architecture.family} in {precision.name} "
            f"({'; '.join(emission.gaps) or 'it has no layers'}): export the model without --kernels"
        )
    return (emission,)


def _check(target: str, architecture: Architecture) -> None:
    """Refuse an architecture that a target cannot emit."""
    if target not in CAPABILITIES:
        raise ValueError(f"no emitter for the target {target!r}")
    check_capabilities(target, CAPABILITIES[target], architecture)
    if target != "cpu" and any(isinstance(module, Pooling) and module.skips_prompt for module in architecture.modules):
        raise InputError(
            f"the target {target} cannot leave the prompt's tokens out of the pooling (include_prompt is false): export the "
            "model for cpu"
        )


def _around_experts(architecture: Architecture, precision: Precision) -> Precision:
    """Return a precision in which the experts alone compute in half types, if the model has some."""
    if precision.arithmetic == "fp32" or not architecture.experts:
        return precision
    return replace(precision, only=EXPERT_PARTS)


def _emit_cpu(
    architecture: Architecture, dimension: int, max_tokens: int, precision: Precision
) -> tuple[Emission, ...]:
    return (Emission(emit_cpu(architecture, dimension, precision)),)


def _emit_cuda(
    architecture: Architecture, dimension: int, max_tokens: int, precision: Precision
) -> tuple[Emission, ...]:
    return (emit_cuda(architecture, dimension, precision),)


def _emit_tensorrt(
    architecture: Architecture, dimension: int, max_tokens: int, precision: Precision
) -> tuple[Emission, ...]:
    return (emit_tensorrt(architecture, dimension, max_tokens, precision),)


#: Emitter of each target. A new target needs an entry here, in `CAPABILITIES`, in `PRECISIONS`, and in `Target`.
_EMITTERS: Mapping[str, Callable[[Architecture, int, int, Precision], tuple[Emission, ...]]] = MappingProxyType(
    {"cpu": _emit_cpu, "cuda": _emit_cuda, "tensorrt": _emit_tensorrt, "coreml": emit_coreml}
)
