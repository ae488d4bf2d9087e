"""Facts that the providers which compute on the processor share: their layouts and the size of their batches."""

from __future__ import annotations

from ..machine.machine import Machine

__all__ = ["TOKEN_BUDGET", "processor_shapes", "shapes_of_one_pool"]

#: Tokens a CPU batch should hold where nothing was measured: small sorted batches stay in the caches. MiniLM on two workers,
#: throughput relative to this budget: 0.97 to 1.05 for 128 and 256 tokens, 0.87 for 1024, 0.40 for 8192
#: (benchmarks/batching, docs/reference/benchmarks.md).
TOKEN_BUDGET = 512

#: Beyond this many processors layouts between all single threads and one wide run are tried too.
FEW_PROCESSORS = 8


def processor_shapes(machine: Machine) -> list[tuple[int, int]]:
    """Return pairs of workers and threads of each that are worth a try, the default first.

    On a large machine there are layouts between: a worker for two processors, which may be two faces of one core; workers of
    four threads; a worker a NUMA node; and, last, a few processors for one batch, as a short text has no work for all.
    """
    count = len(machine.processors)
    shapes = [(count, 1), (1, count)]
    if count > FEW_PROCESSORS:
        nodes = len(machine.numa_nodes)
        shapes[1:1] = [(count // 2, 1), (count // 4, 4), (nodes, count // nodes)]
        shapes.append((1, FEW_PROCESSORS))
    return list(dict.fromkeys(shapes))


def shapes_of_one_pool(machine: Machine) -> list[tuple[int, int]]:
    """Return those of `processor_shapes` where several workers have one thread each.

    ONNX Runtime's runs share the one pool of threads of their session, so several runs of several threads each are not a
    layout of it.
    """
    return [(workers, threads) for workers, threads in processor_shapes(machine) if workers == 1 or threads == 1]
