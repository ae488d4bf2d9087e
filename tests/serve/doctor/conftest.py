"""Fixtures: subjects on which no check of `doctor` finds anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime.machine.gpus import GpuSystem
from fletcher.runtime.machine.machine import Machine
from fletcher.serve.doctor.subject import Subject
from fletcher.serve.doctor.table import CHECKS
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

GIB = 1 << 30
USUAL = Machine("a processor", frozenset(), tuple(range(8)), (tuple(range(8)),), 16 * GIB)
LOOPBACK = ServerOptions(http="127.0.0.1:0", flight="off", fronts=0)
OUTSIDE = ServerOptions(http="0.0.0.0:0", flight="off", fronts=0, allow_anonymous=True)

Make = Callable[..., Subject]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a subject on which no check finds anything, with changes."""

    def of(**changes: Any) -> Subject:
        cache = tmp_path / "cache"
        cache.mkdir(mode=0o700, exist_ok=True)
        usual: dict[str, Any] = {
            "options": LOOPBACK,
            "root": tmp_path / "root",
            "machine": USUAL,
            "gpus": lambda: GpuSystem(problem="no driver"),
            "environment": {},
            "user": 1000,
            "files": (65536, 65536),
            "cache": cache,
            "synchronized": lambda: True,
            "load": lambda spec: FakeEncoder(),
        }
        return Subject(**(usual | changes))

    return of


def found(check: str, subject: Subject) -> list[tuple[str, str]]:
    """Return severity and text of the findings of a check."""
    return [(each.severity, each.found) for each in CHECKS[check](subject)]


def the(check: str, subject: Subject) -> tuple[str, str]:
    """Return the only finding of a check, which has a fix unless nothing is wrong."""
    (finding,) = CHECKS[check](subject)
    assert bool(finding.fix) == (finding.severity != "ok")
    return finding.severity, finding.found
