"""How a provider may run a graph here: workers, threads and batches, before anything is measured."""

from __future__ import annotations

import hashlib

import msgspec

from ..artifact.manifest import Variant
from ..machine.gpus import SLOTS, this_gpus
from ..machine.machine import Machine, this_machine
from ..providers.registry import AUTO, PROVIDERS
from ..session.session import FALLBACK
from .choice import Layout

__all__ = ["TOKEN_BUDGET", "default_layout", "is_possible", "layouts_of", "measuring_key", "on_fallback"]

#: Tokens a CPU batch should hold where nothing was measured: small sorted batches stay in the caches. MiniLM on two workers,
#: throughput relative to this budget: 0.97 to 1.05 for 128 and 256 tokens, 0.87 for 1024, 0.40 for 8192
#: (benchmarks/batching, docs/reference/benchmarks.md).
TOKEN_BUDGET = 512

#: The same for a GPU, where a batch has to fill it (benchmarks/gpu).
GPU_TOKEN_BUDGET = 65_536

#: Beyond this many processors layouts between all single threads and one wide run are tried too.
FEW_PROCESSORS = 8


def measuring_key() -> str:
    """A hex digest of all that a measurement of speed depends on here: the machine's, and its GPUs."""
    names = "\n".join(gpu.name for gpu in this_gpus().gpus)
    key = this_machine().key
    return hashlib.sha256(f"{key}\n{names}".encode()).hexdigest()[:16] if names else key


def default_layout(provider: str) -> Layout:
    """How a provider runs where nothing was measured."""
    if provider != AUTO and PROVIDERS[provider].on_gpu:
        return Layout(provider, SLOTS * max(len(this_gpus().gpus), 1), 1, GPU_TOKEN_BUDGET)
    return Layout(provider, len(this_machine().processors), 1, TOKEN_BUDGET)


def on_fallback(layout: Layout, variant: Variant) -> Layout:
    """How ONNX Runtime's CPU provider stands in for a layout of a variant."""
    if variant.target != "cpu":
        return default_layout(FALLBACK)
    return msgspec.structs.replace(layout, provider=FALLBACK)


def layouts_of(machine: Machine, provider: str = FALLBACK) -> list[tuple[int, int]]:
    """Workers and threads of each that are worth a try, the default first.

    On a large machine there are layouts between: a worker for two processors, which may be two faces of one core; workers of
    four threads; a worker a NUMA node; and, last, a few processors for one batch, as a short text has no work for all.
    """
    if PROVIDERS[provider].on_gpu:
        return [(default_layout(provider).workers, 1)]
    count = len(machine.processors)
    layouts = [(count, 1), (1, count)]
    if count > FEW_PROCESSORS:
        nodes = len(machine.numa_nodes)
        layouts[1:1] = [(count // 2, 1), (count // 4, 4), (nodes, count // nodes)]
        layouts.append((1, FEW_PROCESSORS))
    return list(dict.fromkeys(layouts))


def is_possible(provider: str, workers: int, threads: int) -> bool:
    """ONNX Runtime's runs share their session's one pool of threads, so several runs of several threads each are no layout
    of it."""
    return PROVIDERS[provider].package != "onnxruntime" or workers == 1 or threads == 1
