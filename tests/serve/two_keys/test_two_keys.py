"""Two keys on one server: what bob sees, and what is recorded of him, is the same whatever ann does meanwhile.

Bob's requests are of every kind: every route of the OpenAPI document, and every call and action of Flight. He sends them
with a new key and the same limits each time, so that his limits, too, are used up in the same way. How long he waits while
ann floods is tested on a clock that counts batches, in tests/simulation/test_two_keys.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.access.limits.quota import read_quota
from fletcher.serve.audit.verify import files_of
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..cost.models import make_models
from ..fake_encoder import FakeEncoder
from .disturbing import DISTURBANCES, disturbing
from .kinds import SECONDS, Answer, Kind, Target, kinds

pytestmark = pytest.mark.heavy  # by the seconds that it computes

#: Limits that do not refill during a test, so that what is left is the same at the same request.
LIMITS = ["requests=0.0001/s:5000", "tokens=0.0001/s:5000000", "bytes=1000000000/day"]

#: Limits of ann that she has used up at once.
FEW = ["requests=0.0001/s:1", "in_flight=1"]

#: Fields of a line of the audit log that differ from one request to the next. Answers have ids and durations, and so other
#: lengths.
VOLATILE = ("bytes_out", "seq", "prev", "time", "seconds", "client", "request_id", "trace_id", "peer")

PHASES = ("alone", *DISTURBANCES)


@dataclass
class Served:
    """A server with keys for bob, a new one for each phase, and for ann."""

    target: Target
    keys: dict[str, str]
    kinds: list[Kind]


@contextmanager
def serving(folder: Path, models: Sequence[ModelSpec] = ()) -> Iterator[Served]:
    """Serve a fake model in one process, or models with two fronts."""
    file = folder / "keys.json"
    keys = {f"bob {phase}": add_key(file, f"bob {phase}", limits=read_quota(LIMITS)) for phase in PHASES}
    keys["ann"] = add_key(file, "ann")
    keys["ann with limits"] = add_key(file, "ann with limits", limits=read_quota(FEW))
    options = ServerOptions(
        http="127.0.0.1:0",
        flight="127.0.0.1:0",
        keys=str(file),
        audit=str(folder / "audit.jsonl"),
        drain_seconds=10,
        fronts=2 if models else 0,
    )
    with ExitStack() as stack:
        server: Any = stack.enter_context(
            Supervisor(models, options) if models else Server(FakeEncoder(token_budget=2048), options)
        )
        names = [spec.name for spec in models] or ["fake-model"]
        http, flight = str(server.addresses.http), str(server.addresses.flight)
        client = stack.enter_context(httpx.Client(base_url=http, timeout=SECONDS))
        target = Target(http, flight, names[0], names[-1], client)
        yield Served(target, keys, [*kinds(target, keys["ann"])])


def answers(served: Served, phase: str) -> dict[str, Answer]:
    """Return what bob sees of a request of each kind."""
    key = served.keys[f"bob {phase}"]
    return {kind.name: kind.send(key) for kind in served.kinds}


def judge(folder: Path, models: Sequence[ModelSpec] = ()) -> dict[str, Answer]:
    """Compare what bob sees, and his lines in the audit log, with and without ann; return what he saw without her."""
    seen = {}
    with serving(folder, models) as served:
        for phase in PHASES:
            with ExitStack() as stack:
                if phase in DISTURBANCES:
                    acts, limited = DISTURBANCES[phase]
                    key = served.keys["ann with limits" if limited else "ann"]
                    stack.enter_context(disturbing(served.target, key, acts))
                seen[phase] = answers(served, phase)
    for phase in PHASES[1:]:
        for kind, wanted in seen["alone"].items():
            assert seen[phase][kind] == wanted, f"{kind} while ann {phase}"
    lines = [json.loads(line) for file in files_of(folder / "audit.jsonl") for line in file.read_bytes().splitlines()]
    # Lines of the front processes and of the engine process come in the order in which these send them.
    records = {
        phase: sorted((_fields(line) for line in lines if line.get("client") == f"bob {phase}"), key=json.dumps)
        for phase in PHASES
    }
    for phase in PHASES[1:]:
        assert records[phase] == records["alone"], f"the records while ann {phase}"
    assert len(records["alone"]) > len(seen["alone"]) / 2
    return seen["alone"]


def _fields(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in VOLATILE}


def assert_right(alone: dict[str, Answer], answered: int) -> None:
    """Check that the requests of bob reached what they were meant for, and that the limits in the headers are his."""
    statuses = {kind: answer.status for kind, answer in alone.items()}
    good = [kind for kind, status in statuses.items() if status in ("200", "ok")]
    assert len(good) >= answered and "429" not in statuses.values(), statuses
    kinds = ("POST /v1/embeddings", "POST /v1/embeddings, application/x-ndjson", "POST /v1/embeddings, zstd")
    left = [int(alone[kind].headers["x-ratelimit-remaining-requests"]) for kind in kinds]
    assert left[0] - left[1] == left[1] - left[2] == 1, left


def test_bob_sees_the_same_whatever_ann_does(tmp_path: Path) -> None:
    assert_right(judge(tmp_path), 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bob_sees_the_same_with_fronts(tmp_path: Path) -> None:
    embedder, reranker = make_models(tmp_path)
    specs = [ModelSpec(path=str(path), name=path.name, provider="mlas") for path in (embedder, reranker)]
    assert_right(judge(tmp_path, specs), 30)
