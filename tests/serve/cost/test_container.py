"""A server in a real control group: the group's limit is the default of `--memory-limit`, and it keeps it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cases import cases
from .contract import serve
from .models import make_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = 900 << 20

#: Folders of the memory controller of version 2 and of version 1, and the names of their limits.
CONTROLLERS = ((Path("/sys/fs/cgroup"), "memory.max"), (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"))


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group with a limit of memory."""
    for controller, limit in CONTROLLERS:
        if not (controller / "cgroup.procs").is_file():  # the folder of version 1 is a plain one
            continue
        group = controller / f"fletcher-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            (group / limit).write_text(str(LIMIT))
            break
        with contextlib.suppress(OSError):
            group.rmdir()
    else:
        pytest.skip("this process may not make a control group with a limit of memory")
    yield group
    for _ in range(100):  # until the kernel has let the ended processes go
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)
    group.rmdir()


def test_a_container_is_the_limit_of_a_server(group: Path, tmp_path: Path) -> None:
    """Requests that are large in every way, without `--memory-limit`: none lets the kernel end the server."""
    models = make_models(tmp_path)
    with serve(models, "--fronts", "0", memory_limit=None, group=group) as server:
        assert (group / "cgroup.procs").read_text().split(), "the server is not in the group"
        sizes = ("one of 16777216", "2048 texts", "windows that overlap", "chunks of 1", "zstd of 268435456")
        chosen = [
            case for case in cases(server.document, server.embedder, server.reranker) if case.name.endswith(sizes)
        ]
        assert len(chosen) > 20
        statuses = set()
        for case in chosen:
            cost = server.cost(case)
            assert cost.alive, f"{case.name} ended the server"
            assert cost.peak <= LIMIT, f"{case.name}: {cost.peak >> 20} MiB"
            statuses.add(cost.status)
        assert {200, 413} <= statuses
