"""Fixtures of the clients' tests: real servers of three models, and the right results."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fletcher.convert.export.export import export

from ..convert.heads import test_classification
from .reference import MODELS, Reference, save_prompted

#: Numbers of front processes of the servers: one server is a single process.
FRONTS = (0, 2)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, minilm_checkpoint: Path) -> dict[str, Path]:
    """Return the folders of the checkpoints by the name of the served model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "minilm": minilm_checkpoint,
        "prompted": save_prompted(folder / "prompted"),
        "reranker": test_classification.make(folder / "reranker"),
    }


@pytest.fixture(scope="session")
def reference(checkpoints: dict[str, Path]) -> Reference:
    return Reference.compute(*(checkpoints[name] for name in MODELS))


@pytest.fixture(scope="session")
def servers(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], minilm_artifact: Path
) -> Iterator[dict[str, str]]:
    """Return the addresses of two servers by their description: one process, and front processes."""
    folder = tmp_path_factory.mktemp("served")
    paths = {"minilm": minilm_artifact}
    for name in ("prompted", "reranker"):
        paths[name] = folder / name
        export(str(checkpoints[name]), paths[name])
    lines = [
        f'[[models]]\npath = "{path}"\nname = "{name}"\nprovider = "mlas"\nworkers = 1\n'
        for name, path in paths.items()
    ]
    (folder / "server.toml").write_text("\n".join(lines))
    with ExitStack() as stack:
        yield {
            f"{fronts} front processes" if fronts else "one process": stack.enter_context(
                running(folder / "server.toml", fronts)
            )
            for fronts in FRONTS
        }


@contextmanager
def running(config: Path, fronts: int) -> Iterator[str]:
    """Start the command on a free port, give its address, and stop it."""
    command = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "--json"]
    command += ["--config", str(config), "run", "--fronts", str(fronts), "--http", "127.0.0.1:0", "--flight", "off"]
    with config.with_name(f"server-{fronts}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["http"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
