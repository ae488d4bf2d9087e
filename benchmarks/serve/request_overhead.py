"""CPU time that limits, the record and the cost computation take of one request of one short text.

    python benchmarks/serve/request_overhead.py [--loops 5000] [--rounds 7] [--json]

The benchmark calls the functions that `HttpApp` and the engine call for a request, with the amounts of a usual one, in a
loop on one thread, and no others. The rounds of the parts are interleaved; the smallest CPU time of each part counts. The
parts are:

- limits: access check of a key, permit, its three charges, and the headers of the answer; with a table of one process, and
  with the table in a file that several processes share; "key" is the access check of a key without limits
- token: access check of a signed token (JWT) that was verified before
- audit: the part of the audit log on the thread of the request; the other thread's is not in it
- record: draft, record, its metrics and its log line (DEBUG, which is off)
- cost: prices of the request, and bytes of the body and of the answer
- GET /v1/models: a complete request in `HttpApp`, with a key without limits, and with one with limits of requests. The
  difference is a permit, a charge, the headers and the calls between them
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fletcher.runtime.inputs import Texts
from fletcher.serve.access.gate import Gate
from fletcher.serve.access.keys import Keys
from fletcher.serve.access.keys_file import add_key
from fletcher.serve.access.limits.ledger import TableLedger
from fletcher.serve.access.limits.quota import read_quota
from fletcher.serve.audit.trail import Trail
from fletcher.serve.byte_budget import ByteBudget
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.engine import Engine
from fletcher.serve.engine.price import answer_bytes, charged_tokens, is_bulk, price_of
from fletcher.serve.http.app import HttpApp
from fletcher.serve.http.bridge import Message
from fletcher.serve.models.registry import Models
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.observe.metrics import Metrics
from fletcher.serve.observe.record import RequestRecord, Stages
from fletcher.serve.observe.requests import RecordDraft, Requests

#: A text of ten tokens, and the sizes of its body and answer in bytes.
TEXT = "The quick brown fox jumps over the lazy dog"
TOKENS, BODY, ANSWER = 12, 90, 2200

#: Limits that are never reached, of each kind.
LIMITS = ("requests=1000000/s", "tokens=100000000/s", "requests=1000000000/day", "in_flight=64")


def make_limits(folder: Path, *limits: str, table: TableLedger | None = None) -> Callable[[], None]:
    """Return what limits do in a request.

    Args:
        folder: folder for a file of keys.
        limits: limits of the key.
        table: counts the use.
    """
    file = folder / f"{len(list(folder.iterdir()))}.json"
    authorization = f"Bearer {add_key(file, 'ann', limits=read_quota(limits) if limits else None)}"
    gate = Gate(Keys(file), ledger=table)

    def run() -> None:
        grant = gate.enter("key", authorization, peer="127.0.0.1", route="/v1/embeddings")
        gate.salt_of(grant, grant.name)
        permit = gate.permit(grant, "127.0.0.1")
        if permit is not None:
            permit.enter(BODY)
            permit.check_model("model")
            permit.spend(TOKENS)
            headers = permit.headers
            permit.leave(TOKENS - 1, BODY)
            assert headers

    return run


def make_record() -> Callable[[], None]:
    """Return what the record takes in a request."""
    requests = Requests(Metrics())

    def run() -> None:
        draft = RecordDraft(door="http", id="req-0123456789ab-1f", route="/v1/embeddings")
        with requests.wrap(draft):
            draft.client, draft.peer, draft.model, draft.version = "ann", "127.0.0.1", "model", "1"
            draft.bytes_in, draft.bytes_out, draft.status = BODY, ANSWER, 200

    return run


def make_token(folder: Path) -> Callable[[], None]:
    """Return the access check of a signed token, which the first call verifies.

    Args:
        folder: folder for the settings and the keys of the issuer.
    """
    from tests.doubles.issuer import Issuer

    from fletcher.serve.access.tokens.tokens import Tokens

    issuer = Issuer()
    (folder / "jwks.json").write_bytes(issuer.jwks)
    settings = issuer.write_settings(folder / "jwt.toml", jwks=str(folder / "jwks.json"))
    gate = Gate(None, tokens=Tokens(settings))
    authorization = f"Bearer {issuer.token(exp=int(time.time()) + 86400)}"
    issuer.close()

    def run() -> None:
        grant = gate.enter("key", authorization, peer="127.0.0.1", route="/v1/embeddings")
        gate.salt_of(grant, grant.name)
        gate.permit(grant, "127.0.0.1")

    return run


def make_audit() -> Callable[[], None]:
    """Return the part of the audit log on the thread of a request."""
    trail = Trail(lambda bodies: None, "stop", most_waiting=1 << 30)
    record = RequestRecord(
        door="http",
        id="req-0123456789ab-1f",
        client="ann",
        peer="127.0.0.1",
        route="/v1/embeddings",
        model="model",
        version="1",
        space="space",
        texts=1,
        tokens=TOKENS,
        bytes_in=BODY,
        bytes_out=ANSWER,
        status=200,
        error=None,
        stages=Stages(),
        trace=None,
    )

    def run() -> None:
        trail.check()
        trail.record(record)

    return run


def make_cost() -> Callable[[], None]:
    """Return what the computation of the cost takes in a request."""
    from tests.serve.fake_encoder import FakeEncoder

    info, budget = FakeEncoder().info, ByteBudget()
    request = EmbedRequest(Texts((TEXT,)))

    def run() -> None:
        draft = RecordDraft(door="http", id="")
        budget.hold(BODY, draft)
        budget.hold(BODY, draft)
        is_bulk(request.inputs)
        charged_tokens(request, info)
        budget.hold(answer_bytes(request, info), draft)
        price_of(request, info, 0.25)
        budget.hold(-draft.held, draft)

    return run


def make_request(folder: Path, *limits: str) -> Callable[[], None]:
    """Return a complete request for `/v1/models`, which never waits, to `HttpApp`.

    Args:
        folder: folder for a file of keys.
        limits: limits of the key.
    """
    from tests.serve.fake_encoder import FakeEncoder

    file = folder / f"{len(list(folder.iterdir()))}.json"
    token = add_key(file, "ann", limits=read_quota(limits) if limits else None)
    models = Models(lambda spec: FakeEncoder(), lambda backend, metrics: Engine(backend, metrics=metrics))
    models.apply([ModelSpec(path="", name="model")])
    app = HttpApp(models, gate=Gate(Keys(file)))
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        "client": ("127.0.0.1", 50000),
    }
    statuses: list[int] = []

    async def receive() -> NoReturn:
        raise RuntimeError("the request has no body")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    def run() -> None:
        statuses.clear()
        try:
            app(scope, receive, send).send(None)
        except StopIteration:
            assert statuses == [200], statuses

    async def begin() -> None:
        await app(scope, receive, send)  # it needs the event loop only once

    asyncio.run(begin())
    return run


def measure(parts: dict[str, Callable[[], None]], loops: int, rounds: int) -> dict[str, float]:
    """Return the smallest CPU time of a call of each part in microseconds.

    Args:
        parts: the parts by name.
        loops: calls of a part in a round.
        rounds: number of rounds.
    """
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds):
        for name, run in parts.items():
            begun = time.thread_time()
            for _ in range(loops):
                run()
            best[name] = min(best[name], (time.thread_time() - begun) / loops * 1e6)
    return best


def main() -> None:
    """Measure the parts, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "key": make_limits(folder),
            "limits, one process": make_limits(folder, *LIMITS),
            "limits, eight fronts": make_limits(folder, *LIMITS, table=TableLedger(folder / "table", 1, 9)),
            "token": make_token(folder),
            "audit": make_audit(),
            "record": make_record(),
            "cost": make_cost(),
            "GET /v1/models, key": make_request(folder),
            "GET /v1/models, limits": make_request(folder, "requests=1000000/s"),
        }
        found = measure(parts, options.loops, options.rounds)
    for limits in ("key", "limits, one process", "limits, eight fronts"):
        found[f"{limits} + record + cost + audit"] = sum(found[name] for name in (limits, "record", "cost", "audit"))
    if options.json:
        print(json.dumps(found))
        return
    for name, microseconds in found.items():
        print(f"{name:40} {microseconds:6.2f} us")


if __name__ == "__main__":
    main()
