"""`fletcher-convert` as users start it: exit codes, one message, JSON, and no incomplete output."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fletcher.convert.commands.cli import app
from fletcher.convert.export.export import export
from fletcher.model_zoo import list_models
from fletcher.runtime.artifact.folder import Artifact
from tests.command_here import run_here

from ..tiny import save_embedder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users
MAIN = "from fletcher.convert.commands.cli import main; main()"


def environment() -> dict[str, str]:
    """Return this process's environment without the variables that set options, and with the hub offline."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("FLETCHER_", "COV_"))}
    return variables | {"HF_HUB_OFFLINE": "1"}


def convert(*args: str | Path, before: Callable[[], None] | None = None, **variables: str) -> Any:
    """Run the command in a separate process."""
    command = [sys.executable, "-c", MAIN, *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment() | variables, preexec_fn=before
    )


def here(*args: str | Path) -> Any:
    """Run the command in this process."""
    return run_here(app, *args)


def check_failed(done: Any, message: str, code: int = 1) -> None:
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line.lower()]
    assert len(errors) == 1 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "defect" not in done.stderr
    assert "{" not in done.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "tiny checkpoint ü"
    return save_embedder(folder)


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    path = checkpoint.parent / "artifact ü"
    export(str(checkpoint), path)
    return path


def test_list_shows_every_model_in_groups() -> None:
    done = convert("model", "list", "--json")
    assert done.returncode == 0 and done.stderr == ""
    listed = {model["name"]: model for model in json.loads(done.stdout)}
    assert list(listed) == [model.name for model in list_models()]
    assert listed["all-MiniLM-L6-v2"]["verified"] and not listed["bge-m3"]["verified"]
    assert listed["embeddinggemma-300m"]["needs"] == ["terms accepted on the hub"]
    assert (listed["gte-modernbert-base"]["settings"], listed["gte-modernbert-base"]["card"]) == ("checkpoint", None)
    assert listed["jina-embeddings-v3"]["non_commercial"] and not listed["bge-m3"]["non_commercial"]
    assert [figure["benchmark"] for figure in listed["all-MiniLM-L6-v2"]["figures"]] == ["MTEB(eng, v2)", "BEIR"]
    table = convert("model", "list").stdout.splitlines()
    titles = [table[0], *(line for before, line in pairwise(table) if not before)]
    assert titles[:4] == ["dense", "static", "reranker", "classifier"] and titles[-1].startswith("not converted yet")
    [minilm] = [line for line in table if line.startswith("all-MiniLM-L6-v2 ")]
    cells = ["22.7 M", "90.9 MB", "384", "256", "en", "Apache-2.0", "59.0 MTEB(eng, v2) mean", "yes"]
    assert re.split("  +", minilm)[1:] == cells
    marked = [line.split()[0] for line in table if "CC-BY-NC" in line and " *" in line]
    assert {"jina-embeddings-v3", "SFR-Embedding-Mistral", "splade-v3"} < set(marked)
    assert "* for non-commercial use only" in table


def test_show_has_prompts_commit_and_every_figure_with_its_benchmark_and_source() -> None:
    shown = convert("model", "show", "E5-Mistral-7b-Instruct").stdout
    assert "07163b72af1488142a360786df853f237b1a3ca1" in shown
    assert 'prompt of query                   "Instruct: Given a web search query, retrieve relevant' in shown
    assert 'the query\\nQuery: "' in shown
    assert re.search(
        r"^BEIR nDCG@10 +57\.07, mean over 15 data sets; from embeddings-benchmark/results at ", shown, re.M
    )
    refused = convert("model", "show", "voyage-4-nano", "--json")
    assert refused.returncode == 0 and json.loads(refused.stdout)["refused"].startswith("its own code makes a Qwen3")
    check_failed(convert("model", "show", "voyage-4-nan"), "Did you mean voyage-4-nano?")


def test_export_verify_and_inspect(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "art é fact"
    done = convert("model", "export", checkpoint, "-o", path, "--json", "--max-tokens", "12", "--no-verify")
    assert done.returncode == 0, done.stderr
    exported = json.loads(done.stdout)
    assert exported["path"] == str(path) and exported["status"] == "self-made" and exported["max_tokens"] == 12
    assert exported["digest"] == Artifact.open(path).digest
    assert "self-made canary" in done.stderr
    assert [file.name for file in path.parent.iterdir()] == [path.name]

    done = here("model", "verify", path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "passed"

    done = here("model", "inspect", path, "--json")
    assert done.returncode == 0 and done.stderr == ""
    inspected = json.loads(done.stdout)
    assert inspected["status"] == "verified" and inspected["digest"] == exported["digest"]
    done = here("model", "inspect", path)
    assert done.returncode == 0 and "cpu-fp32" in done.stdout and exported["digest"] in done.stdout


def test_bad_input_gets_one_message_and_a_traceback_only_on_request(tmp_path: Path) -> None:
    missing = convert("model", "export", "/no/such/folder", "-o", tmp_path / "a")
    check_failed(missing, "'/no/such/folder' is not a folder; a source is")
    debugged = here("model", "export", "/no/such/folder", "-o", tmp_path / "a", "--debug")
    assert debugged.returncode == 1 and "Traceback" in debugged.stderr
    assert list(tmp_path.iterdir()) == []
    assert here("model", "export").returncode == 2
    assert here("model", "export", "x", "-o", tmp_path / "a", "--max-tokens", "0").returncode == 2


def test_a_damaged_artifact_is_reported(artifact: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(artifact, tmp_path / "damaged"))
    weights = path / "weights.fp32.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    check_failed(here("model", "inspect", path), "has sha256")


@pytest.mark.parametrize("limit", [2_000, 60_000])
def test_a_full_disk_leaves_no_artifact(checkpoint: Path, tmp_path: Path, limit: int) -> None:
    """Limits on the file size simulate the full disk: each limit stops at a different file of the artifact."""

    def confine() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = convert("model", "export", checkpoint, "-o", tmp_path / "artifact", before=confine)
    check_failed(done, f"{tmp_path / 'artifact'}: File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["4k", "160k"])
def test_a_full_file_system_leaves_no_artifact(checkpoint: Path, tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    mounted = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        check_failed(
            convert("model", "export", checkpoint, "-o", disk / "artifact"), f"{disk / 'artifact'}: no space is left"
        )
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


HOLD = """
import sys, time
from fletcher.runtime.artifact.writing import new_artifact
with new_artifact(sys.argv[1]):
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None and first.stdout.readline()
        check_failed(convert("model", "export", checkpoint, "-o", path), "another process is writing")
    finally:
        first.terminate()
        first.communicate()


SLOW = (
    """
import time
from fletcher.convert.export import export
def stop(*_):
    print("at work", flush=True)
    time.sleep(60)
export._write = stop
"""
    + MAIN
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_keeps_the_previous_artifact(
    checkpoint: Path, artifact: Path, tmp_path: Path, number: int, code: int
) -> None:
    path = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    command = [sys.executable, "-c", SLOW, "model", "export", str(checkpoint), "-o", str(path), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), process_group=0
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    assert len(list(tmp_path.iterdir())) == 3
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert [file.name for file in tmp_path.iterdir()] == ["artifact"]
    Artifact.open(path).check_files()


def test_diff_says_why_two_artifacts_differ_and_that_two_are_equal(
    checkpoint: Path, artifact: Path, tmp_path: Path
) -> None:
    equal = here("model", "diff", artifact, artifact)
    assert equal.returncode == 0 and equal.stdout.startswith("equal: fs1-"), equal.stderr
    export(str(checkpoint), tmp_path / "short", max_tokens=12, verify=False)
    different = here("model", "diff", artifact, tmp_path / "short")
    assert different.returncode == 1 and different.stderr == ""
    assert "max_tokens" in different.stdout and "longer texts are cut at another place" in different.stdout
    assert "tokenizer" not in different.stdout
    as_json = here("model", "diff", artifact, tmp_path / "short", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["differences"] == [{"component": "max_tokens", "first": 20, "second": 12}]
    check_failed(here("model", "diff", artifact, tmp_path), "is not an artifact")
    inspected = json.loads(here("model", "inspect", artifact, "--json").stdout)
    assert equal.stdout.split()[1].strip(".") == inspected["space"]
