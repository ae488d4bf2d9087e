"""`fletcher-convert model push`, `pull` and `list URL`, as users start them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime import Artifact

pytest.importorskip("obstore")

MAIN = "from fletcher.convert.commands.cli import main; main()"


def convert(*args: str | Path, **variables: str) -> Any:
    """Run a command in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FLETCHER_", "AWS_"))}
    command = [sys.executable, "-c", MAIN, "model", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment | variables)


def test_push_list_and_pull(tiny_artifact: Path, tmp_path: Path) -> None:
    store, digest = f"file://{tmp_path}/store", Artifact.open(tiny_artifact).digest
    pushed = convert("push", tiny_artifact, f"{store}/one", "--alias", f"{store}/prod.json", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["digest"] == digest
    assert json.loads((tmp_path / "store" / "prod.json").read_text()) == {
        "artifact": "one",
        "digest": f"sha256:{digest}",
    }
    listed = convert("list", store)
    assert f"{store}/one" in listed.stdout and f"{store}/prod.json" in listed.stdout
    pulled = convert("pull", f"{store}/prod.json", tmp_path / "pulled", "--digest", digest, "--json")
    assert json.loads(pulled.stdout) == {
        "path": str(tmp_path / "pulled"),
        "digest": digest,
        "bytes": sum(file.stat().st_size for file in tiny_artifact.iterdir()),
    }
    Artifact.open(tmp_path / "pulled").check_files()
    refused = convert("pull", f"{store}/one", tmp_path / "other", "--digest", "sha256:" + "0" * 64)
    assert refused.returncode == 1
    assert "is required" in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_failure_shows_no_credentials(tiny_artifact: Path, tmp_path: Path) -> None:
    variables = {
        "AWS_ACCESS_KEY_ID": "KEYTHATISASECRET",
        "AWS_SECRET_ACCESS_KEY": "word-that-is-a-secret",
        "AWS_SESSION_TOKEN": "token-that-is-a-secret",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    done = convert("pull", "s3://models/one", tmp_path / "pulled", "--debug", **variables)
    assert done.returncode == 1
    assert "it refuses connections" in done.stderr
    assert not any(
        value in done.stderr + done.stdout for name, value in variables.items() if name != "AWS_ENDPOINT_URL"
    )


def test_a_url_needs_the_extra(tmp_path: Path) -> None:
    (tmp_path / "obstore.py").write_text("raise ModuleNotFoundError('No module named obstore', name='obstore')")
    shutil.copytree(tmp_path, tmp_path / "hidden")
    path = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])
    done = convert("list", "s3://models", PYTHONPATH=path)
    assert done.returncode == 1
    assert "pip install 'longbow-fletcher[objects]'" in done.stderr
