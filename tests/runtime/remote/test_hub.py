"""Artifacts on the hub, by huggingface_hub and a server with its HTTP interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fletcher.runtime.errors import InputError
from fletcher.runtime.remote.locate import locate
from fletcher.runtime.remote.transfer import push

from ...model_zoo.fake_hub import FakeHub

#: Program that locates URLs, and prints the folder or the error of each. huggingface_hub reads its variables at its import.
LOCATE = """
import sys
from fletcher.runtime.errors import FletcherError
from fletcher.runtime.remote.locate import locate
for url in sys.argv[1:]:
    try:
        with locate(url) as located:
            print(located.folder)
    except FletcherError as error:
        print(type(error).__name__, error)
"""


def run(hub: FakeHub, *urls: str) -> list[str]:
    """Return the line of each URL."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, *urls], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_an_artifact_of_the_hub_is_cached_with_its_own_digest(make: Callable[..., Path], cache: Path) -> None:
    artifact = make(size=3 << 20)
    with FakeHub() as hub:
        hub.add("org/minilm", artifact)
        hub.files["org/many"] = {f"cpu/{name}": data for name, data in hub.files["org/minilm"].items()}
        hub.cut["extra.bin"] = 1 << 20
        one, again, below, none, unknown = run(
            hub, "hf://org/minilm", "hf://org/minilm@main", "hf://org/many/cpu", "hf://org/many", "hf://org/none"
        )
    assert {file.name: file.read_bytes() for file in Path(one).iterdir()} == {
        file.name: file.read_bytes() for file in artifact.iterdir()
    }
    assert one == again == below  # one key: the same bytes, whatever their URL
    assert none.startswith("SourceError") and "is not an artifact" in none
    assert unknown.startswith("SourceError") and "no repository org/none" in unknown
    assert (
        sum("extra.bin" in path and method == "GET" for method, path, _ in hub.requests) == 2
    )  # the cut one, and its rest


def test_the_hub_has_no_aliases_and_no_push(make: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="name a branch"):
        locate("hf://org/name/prod.json")
    with pytest.raises(InputError, match="hf upload"):
        push(make(), "hf://org/name")
