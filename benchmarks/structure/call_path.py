"""Number of Fletcher's functions and files that one `POST /v1/embeddings` runs, on all threads.

    python benchmarks/structure/call_path.py [ARTIFACT] [--json]

The ASGI application and its engine run in this process over the encoder of ARTIFACT, or over the tests' small encoder,
whose own functions are not counted. The program sends requests for one short text, the first ones as a warm-up. It records
each later request from the call of the application until the last byte is sent and the workers wait for the next batch. It
prints the functions that every recorded request ran; timers run only in some of the requests, so they are left out.

A function is a `def` or a `lambda`, properties included. A comprehension belongs to the function in which it is written, as
in Python since 3.12.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import fletcher
from fletcher.runtime import Encoder
from fletcher.serve.engine.backend import Backend
from fletcher.serve.engine.engine import Engine
from fletcher.serve.http.app import HttpApp
from fletcher.serve.models.registry import Models
from fletcher.serve.models.spec import ModelSpec

#: Number of warm-up requests, and of recorded requests.
WARM, RECORDED = 3, 5

#: Time limit of a request, seconds.
LIMIT = 30.0

COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}

ROOT = Path(fletcher.__file__).parent


@dataclass(frozen=True, slots=True, order=True)
class Function:
    """`Function`: a function of Fletcher.

    Attributes:
        file: path of the file, relative to the package.
        line: first line.
        name: qualified name.
    """

    file: str
    line: int
    name: str


class Recorder:
    """`Recorder`: context manager that collects the code objects that run while `recording` is set.

    It records this thread and every thread that starts inside the context.

    Attributes:
        recording: whether code is collected.
        codes: collected code objects.
    """

    def __init__(self) -> None:
        self.recording = False
        self.codes: set[CodeType] = set()

    def __enter__(self) -> Recorder:
        threading.setprofile(self._record)
        sys.setprofile(self._record)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    @contextmanager
    def other_threads(self) -> Iterator[None]:
        """Stop recording this thread until the context ends."""
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.setprofile(self._record)

    def _record(self, frame: FrameType, event: str, argument: object) -> None:
        # The events of C functions have the frame of their caller, so a generator or coroutine that resumes is also recorded.
        if self.recording:
            self.codes.add(frame.f_code)
            if event == "return" and frame.f_back is not None:
                self.codes.add(frame.f_back.f_code)

    def functions(self) -> set[Function]:
        """Return the recorded functions of Fletcher, and clear the record."""
        codes, self.codes = self.codes, set()
        return {
            Function(str(Path(code.co_filename).relative_to(ROOT)), code.co_firstlineno, code.co_qualname)
            for code in codes
            if Path(code.co_filename).is_relative_to(ROOT) and code.co_name not in COMPREHENSIONS
        }


def record(load: Callable[[], Backend]) -> set[Function]:
    """Return the functions that every one of several warm requests runs.

    Args:
        load: function that opens the model; threads that it starts are recorded.
    """
    with Recorder() as recorder:
        models = Models(lambda spec: load(), lambda backend, metrics: Engine(backend, metrics=metrics))
        models.apply([ModelSpec(path="", name="model")])
        try:
            return asyncio.run(_requests(recorder, HttpApp(models), models))
        finally:
            models.stop(LIMIT)


async def _requests(recorder: Recorder, app: HttpApp, models: Models) -> set[Function]:
    runs: list[set[Function]] = []
    for number in range(WARM + RECORDED):
        # Each request has a different text, so no answer comes from a cache.
        body = json.dumps({"input": f"a short text {number}", "model": "model"}).encode()
        recorder.recording = number >= WARM
        await _request(app, body)
        with recorder.other_threads():  # a worker finishes its batch after the answer is sent
            await _settle(models)
        recorder.recording = False
        if number >= WARM:
            runs.append(recorder.functions())
    return set.intersection(*runs)


async def _request(app: HttpApp, body: bytes) -> None:
    """Send one request, and check the status of the answer."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": "/v1/embeddings",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if not messages:
            await asyncio.Event().wait()  # the client stays connected and sends no more data
        return messages.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), LIMIT)
    if sent[0]["status"] != 200:
        raise RuntimeError(f"the request was answered with {sent[0]['status']}: {sent[-1]['body'].decode()}")


async def _settle(models: Models) -> None:
    """Wait until all requests are closed and the workers wait for the next batch."""
    until = time.monotonic() + LIMIT
    while models.open_requests:
        if time.monotonic() > until:
            raise RuntimeError(f"a request is still open {LIMIT:g} s after it was answered")
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)


def by_file(functions: set[Function]) -> dict[str, Sequence[str]]:
    """Return the names of the functions by file, in the order of their lines."""
    files: dict[str, list[str]] = {}
    for function in sorted(functions):
        files.setdefault(function.file, []).append(function.name)
    return dict(files)


def load(artifact: Path | None) -> Backend:
    """Open an artifact on the provider `mlas`; without an artifact, return the tests' encoder."""
    if artifact is not None:
        return Encoder.load(artifact, provider="mlas", workers=1)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.serve.fake_encoder import FakeEncoder

    return FakeEncoder(workers=1)


def main() -> None:
    """Count the functions, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    functions = record(partial(load, options.artifact))
    files = by_file(functions)
    if options.json:
        print(json.dumps({"functions": len(functions), "files": len(files), "by_file": files}))
        return
    for file, names in files.items():
        print(f"{file}\n    {', '.join(names)}")
    folders = Counter(file.partition("/")[0] for file in files for _ in files[file])
    print(f"{len(functions)} functions in {len(files)} files ({', '.join(f'{n} in {f}' for f, n in folders.items())})")


if __name__ == "__main__":
    main()
