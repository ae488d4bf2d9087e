"""Worker layouts and batch sizes of the providers that compute on the processor."""

from __future__ import annotations

from ..machine.machine import Machine

__all__ = ["TOKEN_BUDGET", "processor_shapes", "shapes_of_one_pool"]

#: Tokens that a batch on the processor should hold without a measurement: small sorted batches stay in the caches.
#: Throughput of MiniLM on two workers, relative to this budget: 0.97 to 1.05 for 128 and 256 tokens, 0.87 for 1024, 0.40
#: for 8192 (benchmarks/batching, docs/reference/benchmarks.md).
TOKEN_BUDGET = 512

#: Number of processors above which layouts between "all workers with one thread" and "one worker with all threads" are
#: measured too.
FEW_PROCESSORS = 8


def processor_shapes(machine: Machine) -> list[tuple[int, int]]:
    """Return the layouts that are worth measuring, as (workers, threads per worker), the default first.

    A large machine has more layouts: one worker per two processors, which may be hyperthreads of one core; workers of four
    threads; one worker per NUMA node; and, last, one worker on a few processors, because a short text cannot use all of them.
    """
    count = len(machine.processors)
    shapes = [(count, 1), (1, count)]
    if count > FEW_PROCESSORS:
        nodes = len(machine.numa_nodes)
        shapes[1:1] = [(count // 2, 1), (count // 4, 4), (nodes, count // nodes)]
        shapes.append((1, FEW_PROCESSORS))
    return list(dict.fromkeys(shapes))


def shapes_of_one_pool(machine: Machine) -> list[tuple[int, int]]:
    """Return the layouts of `processor_shapes` with one worker, or with one thread per worker.

    Runs of ONNX Runtime share the thread pool of their session, so several workers with several threads each are impossible.
    """
    return [(workers, threads) for workers, threads in processor_shapes(machine) if workers == 1 or threads == 1]
