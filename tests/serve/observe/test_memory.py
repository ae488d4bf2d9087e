"""Memory of a process, compared with psutil and with glibc's `mallinfo2`."""

from __future__ import annotations

import ctypes
import platform

import psutil  # type: ignore[import-untyped]
import pytest

from fletcher.runtime.machine.machine import this_machine
from fletcher.serve.observe.memory import add_memory_metrics, read_heap, resident_bytes
from fletcher.serve.observe.metrics import Metrics

from .test_metrics import values

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_info and mallinfo2 are glibc's")

#: Bytes by which two reports of one process may differ, because it allocates between them.
BETWEEN = 4 << 20


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_resident_bytes_are_those_of_psutil() -> None:
    resident = resident_bytes()
    assert resident is not None
    assert abs(resident - psutil.Process().memory_info().rss) < BETWEEN


@glibc
def test_the_heap_is_the_one_that_mallinfo_reports() -> None:
    report = ctypes.CDLL(None).mallinfo2
    report.restype = MallInfo
    heap, expected = read_heap(), report()
    assert heap is not None
    assert abs(heap.held - (expected.arena + expected.hblkhd)) < BETWEEN
    assert abs(heap.free - (expected.fordblks + expected.fsmblks)) < BETWEEN


@glibc
def test_a_large_block_counts_as_held_and_not_as_free() -> None:
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    before, block = read_heap(), library.malloc(256 << 20)
    during = read_heap()
    library.free(block)
    assert before is not None and during is not None
    assert during.held - before.held >= (256 << 20) - BETWEEN
    assert during.free - before.free < BETWEEN


@glibc
def test_the_metrics_name_the_process() -> None:
    metrics = Metrics()
    add_memory_metrics(metrics, "front-3")
    found = values(metrics.exposition())
    assert found["fletcher_process_resident_bytes process=front-3"] > 1 << 20
    assert found["fletcher_heap_held_bytes process=front-3"] > found["fletcher_heap_free_bytes process=front-3"]
    assert found["fletcher_heap_arenas process=front-3"] >= 1
    assert found["fletcher_memory_limit_bytes"] == this_machine().memory
