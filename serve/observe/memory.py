"""Memory of a process: resident bytes, and the heap of the C library with the bytes that it holds but does not use."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fletcher.runtime.machine.machine import this_machine

from .metrics import Metrics

__all__ = ["Heap", "add_memory_metrics", "read_heap", "resident_bytes"]

#: Label of the metrics that every process of a server has.
PROCESS: Final = ("process",)

_HEAP: Final = re.compile(r"<heap nr=")
#: The totals of all arenas follow the last arena: `fast` and `rest` are free, `mmap` has blocks of their own.
_TOTAL: Final = re.compile(r'<total type="(fast|rest|mmap)" count="\d+" size="(\d+)"/>')
_SYSTEM: Final = re.compile(r'<system type="current" size="(\d+)"/>')


class Heap(msgspec.Struct, frozen=True):
    """Heap of the C library of this process.

    Attributes:
        held: bytes that the library took from the system.
        free: bytes of them that no object uses: the fragmentation of the heap.
        arenas: number of arenas.
    """

    held: int
    free: int
    arenas: int


def resident_bytes() -> int | None:
    """Return the bytes of this process that are in memory; None if the system does not report them."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def read_heap() -> Heap | None:
    """Return the heap of this process, as `malloc_info` of glibc reports it; None with another C library.

    It walks through the free blocks, which takes microseconds to a few milliseconds.
    """
    report = _malloc_info()
    if report is None:
        return None
    _, _, sums = report.rpartition("</heap>")
    totals = {kind: int(size) for kind, size in _TOTAL.findall(sums)}
    system = _SYSTEM.search(sums)
    if system is None:
        return None
    free = totals.get("fast", 0) + totals.get("rest", 0)
    return Heap(int(system[1]) + totals.get("mmap", 0), free, len(_HEAP.findall(report)))


def add_memory_metrics(metrics: Metrics, process: str) -> None:
    """Add the memory of this process to the metrics. The values are read at each scrape.

    Args:
        metrics: metrics of the process.
        process: value of the label `process`: `server`, `engine` or `front-N`.
    """
    labels = (process,)

    def resident() -> Iterable[tuple[tuple[str, ...], float]]:
        size = resident_bytes()
        return () if size is None else ((labels, float(size)),)

    metrics.described("fletcher_process_resident_bytes", "Bytes of a process in memory", PROCESS, resident)
    metrics.registry.register(_HeapCollector(labels))
    metrics.gauge(
        "fletcher_memory_limit_bytes",
        "Bytes of memory that the server may use: the limit of its control group or the installed memory",
        lambda: float(this_machine().memory),
    )


class _HeapCollector(Collector):
    """Metrics of the heap of this process, which a scrape reads once."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        heap = read_heap()
        for name, text, field in (
            ("held_bytes", "Bytes that the heap of a process took from the system", "held"),
            ("free_bytes", "Bytes of the heap of a process that no object uses", "free"),
            ("arenas", "Arenas of the heap of a process", "arenas"),
        ):
            metric = GaugeMetricFamily(f"fletcher_heap_{name}", text, labels=PROCESS)
            if heap is not None:
                metric.add_metric(self._labels, float(getattr(heap, field)))
            yield metric


def _malloc_info() -> str | None:
    """Return the XML of glibc's `malloc_info`, or None with another C library."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    write, memory_stream = getattr(library, "malloc_info", None), getattr(library, "open_memstream", None)
    if write is None or memory_stream is None:
        return None
    memory_stream.restype = ctypes.c_void_p
    write.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.fclose.argtypes = [ctypes.c_void_p]
    library.free.argtypes = [ctypes.c_void_p]
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    stream = memory_stream(ctypes.byref(text), ctypes.byref(size))
    if not stream:
        return None
    write(0, stream)
    library.fclose(stream)  # it sets text and size
    try:
        return ctypes.string_at(text, size.value).decode("ascii", "replace")
    finally:
        library.free(text)
