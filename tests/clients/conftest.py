"""Fixtures of the clients' tests: real servers of three models, and the right results."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from fletcher.convert.export.export import export
from fletcher.serve.access.key import Key

from ..convert.heads import test_classification
from .reference import MODELS, Reference, save_prompted

#: Servers by their description, each with its number of front processes, and whether it demands an API key.
SERVERS = {"one process": (0, False), "two front processes, with a key": (2, True)}

#: API key that every driver sends; a client that sends another or none is refused by the second server.
KEY = "none"


#: Names of OpenAI's models, for clients that know no others.
ALIASES = {"minilm": ["text-embedding-3-small"]}


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
    """Return the addresses of the servers by their description."""
    folder = tmp_path_factory.mktemp("served")
    paths = {"minilm": minilm_artifact}
    for name in ("prompted", "reranker"):
        paths[name] = folder / name
        export(str(checkpoints[name]), paths[name])
    lines = [
        f'[[models]]\npath = "{path}"\nname = "{name}"\nprovider = "mlas"\nworkers = 1\naliases = {ALIASES.get(name, [])}\n'
        for name, path in paths.items()
    ]
    (folder / "server.toml").write_text("\n".join(lines))
    keys = folder / "keys.json"
    keys.write_bytes(msgspec.json.encode({"keys": [Key("clients", hashlib.sha256(KEY.encode()).hexdigest())]}))
    keys.chmod(0o600)
    with ExitStack() as stack:
        yield {
            description: stack.enter_context(running(folder / "server.toml", fronts, keys if keyed else None))
            for description, (fronts, keyed) in SERVERS.items()
        }


@contextmanager
def running(config: Path, fronts: int, keys: Path | None) -> Iterator[str]:
    """Start the command on a free port, give its address, and stop it."""
    command = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "--json"]
    command += ["--config", str(config), "run", "--fronts", str(fronts), "--http", "127.0.0.1:0", "--flight", "off"]
    command += ["--keys", str(keys)] if keys else []
    with config.with_name(f"server-{fronts}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["http"])
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
