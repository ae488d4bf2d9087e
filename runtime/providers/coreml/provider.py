"""`COREML` and similar providers: CoreML with different sets of devices, so that each set can be measured."""

from __future__ import annotations

import platform
import sys
from functools import partial

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...artifact.memory_shape import MemoryFactors
from ...machine.machine import Machine
from ...session.session import Session
from ...versions import version_numbers
from ..processor import TOKEN_BUDGET
from ..provider import MemoryUse, Needs, OpenOptions, Provider, Tuning
from .buckets import buckets_of
from .options import COREML_EP, ComputeUnits

__all__ = ["COREML", "COREML_ANE", "COREML_CPU", "COREML_GPU", "coreml_problem"]

#: First version of macOS whose CoreML has the format MLProgram.
OLDEST_MACOS = (12,)


def coreml_problem(machine: Machine) -> str | None:
    """Return the reason why CoreML cannot be used on this system, or None. On a Mac this imports onnxruntime."""
    if sys.platform != "darwin":
        return f"CoreML exists only on macOS, and this is {platform.system()}: load a cpu variant"
    release = platform.mac_ver()[0]
    if version_numbers(release) < OLDEST_MACOS:
        return f"CoreML's MLProgram needs macOS {OLDEST_MACOS[0]}, and this is macOS {release}: update it"
    import onnxruntime

    if COREML_EP not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without CoreML: pip install 'longbow-fletcher[apple]'"
    return None


def _shapes(machine: Machine) -> list[tuple[int, int]]:
    """Return the layouts as (workers, threads): with two workers, one prepares inputs while the other computes."""
    return [(2, 1), (1, 1)]


def _open(units: ComputeUnits, title: str, artifact: Artifact, variant: Variant, options: OpenOptions) -> Session:
    from .session import open_coreml

    return open_coreml(artifact, variant, units=units, provider=title)


def _provider(name: str, title: str, units: ComputeUnits) -> Provider:
    """Return the provider of CoreML with a set of devices."""
    return Provider(
        name=name,
        title=title,
        targets=("coreml",),
        device_kind="apple",
        needs=Needs(package="onnxruntime", oldest=(1, 27), extra="apple", problem=coreml_problem),
        open=partial(_open, units, title),
        # Not measured. Apple's devices share the memory of the process, and the graph is the same as on MLAS.
        memory=MemoryUse(factors=MemoryFactors(1.0, 1.0, 1.0, 1.0)),
        tuning=Tuning(shapes=_shapes, token_budget=TOKEN_BUDGET, at_load=False),
        engines=("onnxruntime",),
        variants=buckets_of,
    )


COREML = _provider("coreml", "CoreML", "ALL")
COREML_GPU = _provider("coreml-gpu", "CoreML CPU and GPU", "CPUAndGPU")
COREML_ANE = _provider("coreml-ane", "CoreML CPU and Neural Engine", "CPUAndNeuralEngine")
COREML_CPU = _provider("coreml-cpu", "CoreML CPU", "CPUOnly")
