"""Number of glibc's arenas, limited in a server's process, unlimited in other processes; return of freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fletcher.serve.models.heap import ARENAS, VARIABLE, give_memory_back

#: Program that allocates memory from many threads at once and prints the number of arenas (malloc_info(3)).
PROGRAM = """
import ctypes, re, sys, tempfile, threading
if sys.argv[1] == "few":
    from fletcher.serve.models.heap import few_arenas
    few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(16)
def work():
    barrier.wait()
    for _ in range(50):
        libc.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(len(re.findall("<heap nr=", open(file.name).read())))
"""


def arenas(kind: str, **environment: str) -> int:
    variables = {name: value for name, value in os.environ.items() if name != VARIABLE} | environment
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True, env=variables
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's arenas")
def test_threads_share_few_arenas_unless_the_environment_sets_the_number() -> None:
    assert arenas("many") > ARENAS
    assert arenas("few") == ARENAS
    assert arenas("few", MALLOC_ARENA_MAX="5") == 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_freed_memory_below_a_block_in_use_returns_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(100_000) for _ in range(2_000)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[:-1]:
        libc.free(ctypes.c_void_p(block))
    before = resident()
    give_memory_back()
    assert before - resident() > 150 << 20
    libc.free(ctypes.c_void_p(blocks[-1]))


def resident() -> int:
    """Return the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
