"""`fletcher-serve cluster embed` from and to a real S3 server: every row is there once after kills."""

from __future__ import annotations

import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("obstore")

import psutil  # type: ignore[import-untyped]

from fletcher.runtime.remote.transfer import push

from ....doubles.s3_server import environment
from .command import run_command, started
from .jobs import OPTIONS, PART, ROWS, check_output, engines, files_of, finished, result_of, wait_until, write_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_killed_engines_and_jobs_lose_and_double_nothing_on_s3(
    tiny_artifact: Path, tiny_vectors: Any, s3_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    place = f"s3://models/corpus-{uuid.uuid4().hex[:12]}"
    push(tiny_artifact, f"{place}/tiny")
    write_source(f"{place}/in")
    out, journal = f"{place}/out", f"{place}/out/_fletcher"
    words = ["cluster", "embed", f"{place}/tiny", f"{place}/in", out, "--address", "local", "--engines", "1", *OPTIONS]
    with started(words, tmp_path) as command:
        wait_until(lambda: len(finished(journal)) >= 3 and engines(command), command)
        engines(command)[0].send_signal(signal.SIGKILL)
        wait_until(lambda: len(finished(journal)) >= 9, command)
        tree = psutil.Process(command.process.pid).children(recursive=True)
        command.process.kill()
        command.process.wait()
    psutil.wait_procs(tree, timeout=30)
    before = len(finished(journal))
    assert 9 <= before < ROWS // PART
    done = run_command(*words, folder=tmp_path, seconds=400)
    assert done.returncode == 0, done.stderr
    result = result_of(done.stdout)
    assert (result["rows"], result["resumed_rows"]) == (ROWS, before * PART)
    check_output(out, tiny_vectors)
    assert not [file for file in files_of(out) if "temporary" in file]
