"""Facts that the providers on NVIDIA GPUs share: the driver, their layouts, the host's memory."""

from __future__ import annotations

from ..machine import gpus
from ..machine.gpus import SLOTS
from ..machine.machine import Machine
from .provider import MemoryUse, Tuning

__all__ = ["GPU_TOKEN_BUDGET", "NVIDIA_MEMORY", "NVIDIA_TUNING", "gpu_problem"]

#: Tokens that a GPU's batch should hold where nothing was measured: a batch has to fill it (benchmarks/gpu).
GPU_TOKEN_BUDGET = 65_536


def gpu_problem(machine: Machine) -> str | None:
    """Return why no NVIDIA GPU can be used, or None."""
    return gpus.this_gpus().problem


def _shapes(machine: Machine) -> list[tuple[int, int]]:
    """Return one layout: every slot of every GPU has a worker that waits for it."""
    return [(SLOTS * max(len(gpus.this_gpus().gpus), 1), 1)]


NVIDIA_TUNING = Tuning(shapes=_shapes, token_budget=GPU_TOKEN_BUDGET, at_load=False)
NVIDIA_MEMORY = MemoryUse(factors=None)
