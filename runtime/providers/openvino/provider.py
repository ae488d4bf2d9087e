"""`OPENVINO` and `OPENVINO_BF16`: OpenVINO's CPU plug-in in its two precisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...artifact.memory_shape import MemoryFactors
from ...machine.machine import Machine
from ...session.session import Session
from ..processor import TOKEN_BUDGET, processor_shapes
from ..provider import MemoryUse, Needs, OpenOptions, Provider, Tuning
from . import TITLES

__all__ = ["OPENVINO", "OPENVINO_BF16"]

#: Instruction sets with bfloat16 arithmetic; one of them is enough. Without them OpenVINO would emulate bfloat16.
BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})

#: Bytes of compiled kernels that OpenVINO keeps for each worker: 4,000 random batches of a model of bert-tiny's dimensions
#: on two workers added 114 MB; with 100 shapes, MiniLM needed 7 % more than bert-tiny (benchmarks/memory/growth.py).
KEPT = 80 << 20

TUNING = Tuning(shapes=processor_shapes, token_budget=TOKEN_BUDGET)


def _open(precision: str, artifact: Artifact, variant: Variant, options: OpenOptions) -> Session:
    from .session import OpenVinoSession

    graph = artifact.path / variant.file
    return OpenVinoSession(graph, precision=precision, threads=options.threads, workers=options.workers)


def _bf16_problem(machine: Machine) -> str | None:
    return None if machine.instructions & BF16_INSTRUCTIONS else "the processor has no bfloat16 arithmetic"


def _needs(problem: Callable[[Machine], str | None] | None = None) -> Needs:
    """Return the requirements of both providers. 2026.4 is the oldest version that was tested with opset 24."""
    return Needs(package="openvino", oldest=(2026, 4), extra="openvino", problem=problem)


def _memory(factors: MemoryFactors) -> MemoryUse:
    """Return the memory of one precision.

    OpenVINO keeps the memory of a batch for each worker: after the same batch on two workers it holds twice as much
    (benchmarks/memory/peak.py --workers 2).

    Args:
        factors: upper bounds of measurements on MiniLM and on random encoders of width 768 of six families, from 1 x 512 to
            512 x 8 tokens (benchmarks/memory/peak.py). The memory depends on the family: ModernBERT and GTE need all of it,
            BERT needs two thirds.
    """
    return MemoryUse(factors=factors, kept=KEPT, shared=False)


OPENVINO = Provider(
    name="openvino",
    title=TITLES["fp32"],
    targets=("cpu",),
    device_kind="cpu",
    needs=_needs(),
    open=partial(_open, "fp32"),
    memory=_memory(MemoryFactors(1.5, 4.0, 6.0, 2.0)),
    tuning=TUNING,
    precision="fp32",
    engines=("openvino",),
)
OPENVINO_BF16 = Provider(
    name="openvino-bf16",
    title=TITLES["bf16"],
    targets=("cpu",),
    device_kind="cpu",
    needs=_needs(_bf16_problem),
    open=partial(_open, "bf16"),
    memory=_memory(MemoryFactors(0.9, 2.2, 3.0, 1.0)),
    tuning=TUNING,
    precision="bf16",
    engines=("openvino",),
)
