"""Parts that the providers on NVIDIA GPUs share: check of the driver, worker layouts, memory of the host."""

from __future__ import annotations

from ..machine import gpus
from ..machine.gpus import SLOTS
from ..machine.machine import Machine
from .provider import MemoryUse, Tuning

__all__ = ["GPU_TOKEN_BUDGET", "NVIDIA_MEMORY", "NVIDIA_TUNING", "gpu_problem"]

#: Tokens that a batch on a GPU should hold without a measurement: a batch has to fill the GPU (benchmarks/gpu).
GPU_TOKEN_BUDGET = 65_536


def gpu_problem(machine: Machine) -> str | None:
    """Return the reason why no NVIDIA GPU can be used, or None."""
    return gpus.this_gpus().problem


def _shapes(machine: Machine) -> list[tuple[int, int]]:
    """Return one layout: a worker for each slot of each GPU."""
    return [(SLOTS * max(len(gpus.this_gpus().gpus), 1), 1)]


NVIDIA_TUNING = Tuning(shapes=_shapes, token_budget=GPU_TOKEN_BUDGET, at_load=False)
NVIDIA_MEMORY = MemoryUse(factors=None)
