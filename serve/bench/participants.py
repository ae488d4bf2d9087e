"""Participants of a benchmark: child processes that get commands from the parent process."""

from __future__ import annotations

import base64
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import LoadOptions
from fletcher.runtime.closing import Closing
from fletcher.runtime.errors import InputError

from . import child
from .child import PEERS

__all__ = ["FLETCHER", "ChildError", "Participant", "fletcher_command", "peer_command"]

FLETCHER = "fletcher"

#: Seconds in which a child must load (peers export a graph first), and in which it must answer a command.
LOAD_SECONDS, ANSWER_SECONDS = 600.0, 1800.0


class ChildError(Exception):
    """Failure of a participant. `bench` reports it as a row or as a `ProviderError`."""


def fletcher_command(directory: Path, options: LoadOptions) -> list[str]:
    """Return the command that starts Fletcher's own child process."""
    return [
        sys.executable,
        "-m",
        "fletcher.serve.bench.fletcher_child",
        str(directory),
        msgspec.json.encode(options).decode(),
    ]


def peer_command(peer: str, checkpoint: Path | None) -> tuple[str, list[str]]:
    """Return the name of a peer, and the command that starts its child.

    Args:
        peer: `NAME`, or `NAME=PYTHON` for a peer in another environment.
        checkpoint: folder of the checkpoint that peers load.

    Raises:
        InputError: the peer is unknown, or there is no checkpoint.
    """
    name, _, python = peer.partition("=")
    if name not in PEERS:
        raise InputError(f"there is no peer {name!r}: use {', '.join(PEERS)}")
    if checkpoint is None:
        raise InputError(f"the peer {name} loads the original checkpoint: name its folder with --checkpoint")
    return name, [python or sys.executable, str(Path(child.__file__)), name, str(checkpoint)]


class Participant(Closing):
    """A child process that is loaded and waits for commands. A context manager that ends it.

    Attributes:
        name: name of the participant.
        versions: versions that the child reports.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start the child, and wait until it is loaded.

        Raises:
            ChildError: the child did not load.
        """
        self.name = name
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise ChildError(f"{command[0]} cannot be started: {error.strerror}") from error
        self._buffer = b""
        try:
            self.versions = str(self._answer(LOAD_SECONDS)["versions"])
        except BaseException:
            self.close()
            raise

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer.

        Raises:
            ChildError: the command failed, the child ended, or the answer took too long.
        """
        if self._process.stdin is None:
            raise ChildError(f"{self.name} was ended")
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildError(f"{self.name} ended with {self._process.poll()}") from error
        return self._answer(ANSWER_SECONDS)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, float32, (n, dimension)."""
        answer = self.ask(do="vectors", texts=list(texts))
        return np.frombuffer(base64.b64decode(answer["data"]), "<f4").reshape(answer["shape"])

    def close(self) -> None:
        """End the child."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self, seconds: float) -> dict[str, Any]:
        stream = self._process.stdout
        if stream is None:
            raise ChildError(f"{self.name} was ended")
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    self._process.kill()
                    raise ChildError(f"{self.name} gave no answer in {seconds:.0f} s, and was ended")
                part = os.read(stream.fileno(), 1 << 16)
                if not part:
                    raise ChildError(f"{self.name} ended with {self._process.wait()} before it answered")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildError(f"{self.name}: {answer['error']}")
        return answer
