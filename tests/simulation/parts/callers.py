"""Clients of a run: requests over ASGI and from threads, of random sizes, that leave, stall, or have deadlines."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from fletcher.runtime.errors import FletcherError, StoppingError
from fletcher.runtime.inputs import Texts
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.terms import PRIORITIES, Priority, Terms
from fletcher.serve.http.call import AsgiApp
from fletcher.serve.models.registry import Models

from ..stage.world import Violation, World
from .backend import right_vector
from .judge import IN_FLIGHT, require

__all__ = ["BURST", "CLIENTS", "LIMITED", "LIMITS", "PER_SECOND", "HttpCaller", "Plan", "ThreadCaller", "draw_plan"]

#: Clients with the tokens of their keys.
CLIENTS = {name: f"fletcher-{name}" for name in ("ann", "bob", "carl")}

#: Limits of one of the clients, in the form of the keys' file.
LIMITED, PER_SECOND, BURST = "carl", 20, 10
LIMITS = {"in_flight": IN_FLIGHT, "requests": {"second": PER_SECOND, "burst": BURST}, "tokens": {"second": 5000}}

#: Statuses that answers may have, by the code of the error.
STATUSES = {
    (401, "invalid_api_key"),
    (404, "model_not_found"),
    (408, "request_timeout"),
    (413, "request_too_large"),
    (429, "overloaded"),
    (429, "rate_limit_exceeded"),
    (500, "model_failed"),
    (500, "internal_error"),  # a model that wakes cannot be loaded; `simulator` finds defects
    (503, "model_failed"),
    (503, "model_failing"),
    (503, "stopping"),
    (503, "unavailable"),
    (504, "deadline_exceeded"),
}

#: Seconds in which a body must arrive in the runs.
BODY_SECONDS = 2.0

#: Seconds of asyncio and threads on top of a limit: no turn takes longer.
SLACK = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """Intention of a client.

    Attributes:
        at: seconds until it begins.
        client: name of the client; another name has no key.
        model: name of the model.
        texts: the texts.
        priority: its class, or None.
        timeout: its deadline in seconds, or None.
        leaves: seconds after which it leaves, or None.
        stalls: seconds between the parts of its body, and between its reads of the answer.
        streams: whether it asks for a streamed answer.
    """

    at: float
    client: str
    model: str
    texts: tuple[str, ...]
    priority: Priority | None
    timeout: float | None
    leaves: float | None
    stalls: float
    streams: bool


def draw_plan(chance: random.Random, models: list[str], seconds: float) -> Plan:
    """Draw the intention of a client."""
    streams = chance.random() < 0.15
    size = chance.choice([1, 1, 1, 2, 8, 40]) if not streams else chance.choice([10, 150, 400])
    if chance.random() < 0.05:
        size = 300
    base = chance.randrange(40)  # equal texts join
    texts = tuple(f"{base + index}{'x' * chance.randint(0, 9)}" for index in range(size))
    if chance.random() < 0.03:
        texts = ("poison" if base % 2 else "breaks", *texts)
    return Plan(
        at=seconds * chance.random(),
        client=chance.choice([*CLIENTS] * 12 + ["stranger"]),
        model=chance.choice(models * 30 + ["absent"]),
        texts=texts,
        priority=chance.choice([None, None, *PRIORITIES]),
        timeout=chance.choice([0.02, 0.3, 3.0]) if chance.random() < 0.3 else None,
        leaves=chance.choice([0.0, 0.01, 0.1, 1.0]) if chance.random() < 0.15 else None,
        stalls=chance.choice([0.0] * 12 + [0.01, 0.05, 0.05, 5.0]),
        streams=streams,
    )


class HttpCaller:
    """A client of the HTTP application.

    Attributes:
        plan: its intention.
        status: status of its answer; 0 if it got none.
        code: code of the error; empty without one.
        begun, read, ended: times of its beginning, of the end of its body and of its end; 0 before that.
        gone: whether it has left.
    """

    def __init__(self, world: World, app: AsgiApp, plan: Plan) -> None:
        self.plan = plan
        self.status = 0
        self.code = ""
        self.begun = self.read = self.ended = 0.0
        self.gone = False
        self._world = world
        self._app = app
        self._parts: list[bytes] = []
        self._left = asyncio.Event()
        self._complete = False
        body = {"model": plan.model, "input": plan.texts, "encoding_format": "base64"}
        self._body = json.dumps(body).encode()

    async def run(self) -> None:
        """Send the request and judge its answer."""
        await asyncio.sleep(self.plan.at)
        self.begun = self._world.now
        task = asyncio.create_task(self._call())
        if self.plan.leaves is not None:
            await asyncio.wait([task], timeout=self.plan.leaves)
            if not task.done():
                self.gone = True
                self._left.set()
        await task
        self.ended = self._world.now
        self._judge()
        self._world.note(f"http {self.plan.client} {self.plan.model} {len(self.plan.texts)} {self.status} {self.code}")

    async def _call(self) -> None:
        await self._app(self._scope(), self._receive, self._send)

    def _scope(self) -> dict[str, Any]:
        plan = self.plan
        headers = [(b"authorization", b"Bearer " + CLIENTS.get(plan.client, "wrong").encode())]
        if plan.priority is not None:
            headers.append((b"x-priority", plan.priority.encode()))
        if plan.timeout is not None:
            headers.append((b"x-request-timeout", b"%g" % plan.timeout))
        if plan.streams:
            headers.append((b"accept", b"application/x-ndjson"))
        return {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/embeddings",
            "query_string": b"",
            "headers": headers,
            "client": ("192.0.2.1", 1),
            "scheme": "http",
        }

    async def _receive(self) -> dict[str, Any]:
        if self._left.is_set():
            return {"type": "http.disconnect"}
        if self._body:
            if self.plan.stalls:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._left.wait(), self.plan.stalls)
                    return {"type": "http.disconnect"}
            half = max(len(self._body) // 2, 64) if self.plan.stalls else len(self._body)
            part, self._body = self._body[:half], self._body[half:]
            if not self._body:
                self.read = self._world.now
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        require(not self._complete, "a message follows the end of an answer")
        if message["type"] == "http.response.start":
            require(not self.status, "a request is answered twice")
            self.status = message["status"]
            return
        require(self.status, "a body comes before its status")
        if self.gone:
            return
        self._parts.append(message["body"])
        self._complete = not message.get("more_body", False)
        if self.plan.stalls and not self._complete:
            await asyncio.sleep(min(self.plan.stalls, 0.5))

    def _judge(self) -> None:
        """Check that the answer is complete, and that it is right or a named error."""
        plan = self.plan
        if self.gone:
            return
        require(self._complete, f"the answer to {plan} is not complete: {self.status}")
        body = b"".join(self._parts)
        if self.status != 200:
            self.code = json.loads(body)["error"]["code"] or ""
            require((self.status, self.code) in STATUSES, f"{self.status} {body!r}")
            return
        require(plan.client in CLIENTS, "a stranger is answered")
        if plan.streams:
            lines = [json.loads(line) for line in body.splitlines()]
            rows, last = lines[:-1], lines[-1]
            if last.get("object") != "end":
                self.code = last["error"]["code"]
                known = {code for _, code in STATUSES}
                require(self.code in known, f"a stream ended with {last}")
                _check_vectors(plan.texts[: len(rows)], [line["embedding"] for line in rows])
                return
        else:
            rows = json.loads(body)["data"]
        require([row["index"] for row in rows] == list(range(len(plan.texts))), "the order of an answer")
        _check_vectors(plan.texts, [row["embedding"] for row in rows])

    @property
    def seconds(self) -> float:
        """Return the seconds from the end of its body to its end."""
        return self.ended - (self.read or self.begun)


def _check_vectors(texts: tuple[str, ...], vectors: list[str]) -> None:
    require(len(texts) == len(vectors), f"{len(vectors)} vectors for {len(texts)} texts")
    for text, vector in zip(texts, vectors, strict=True):
        require(base64.b64decode(vector) == right_vector(text), f"the vector of {text!r} is another text's")


class ThreadCaller:
    """A client on a thread of its own, as Flight's calls have: it submits, waits, and may cancel.

    Attributes:
        plan: its intention.
        result: name of its result: `ok`, `cancelled` or the class of an error.
        begun, ended: times of its beginning and its end.
    """

    def __init__(self, world: World, models: Models, plan: Plan) -> None:
        self.plan = plan
        self.result = ""
        self.begun = self.ended = 0.0
        self._world = world
        self._models = models
        self._ends: list[list[Future[Any]]] = []

    def check_ends(self) -> None:
        """Check that every answer came once. A future has its result a moment before its callbacks have it."""
        require(all(len(ends) == 1 for ends in self._ends), "a request ends several times")

    def run(self) -> None:
        """Submit the request and judge its answer."""
        self._world.sleep(self.plan.at)
        self.begun = self._world.now
        plan = self.plan
        client = plan.client if plan.client in CLIENTS else ""
        deadline = None if plan.timeout is None else self._world.now + plan.timeout
        terms = Terms(plan.priority or "normal", client, deadline)
        if plan.streams:
            terms = terms.as_stream("bulk")
        parts = (
            [plan.texts[start : start + 64] for start in range(0, len(plan.texts), 64)]
            if plan.streams
            else [plan.texts]
        )
        calls: list[Callable[[], str]] = []
        for number, texts in enumerate(parts):
            calls.append(self._submit(texts, terms.at(number) if plan.streams else terms))
        results = [call() for call in calls]
        self.result = ",".join(dict.fromkeys(results))
        self.ended = self._world.now
        self._world.note(f"thread {plan.client} {plan.model} {len(plan.texts)} {self.result}")

    def _submit(self, texts: tuple[str, ...], terms: Terms) -> Callable[[], str]:
        try:
            _, future = self._models.submit_blocking(self.plan.model, EmbedRequest(Texts(texts), terms=terms))
        except FletcherError as error:
            name = type(error).__name__
            return lambda: name
        ends: list[Future[Any]] = []
        future.add_done_callback(ends.append)
        return lambda: self._wait(future, texts, ends)

    def _wait(self, future: Future[Any], texts: tuple[str, ...], ends: list[Future[Any]]) -> str:
        """Wait for an answer, and cancel it if the plan says so; return the name of the result."""
        try:
            answer = future.result(self.plan.leaves)
        except FutureTimeoutError:
            if not future.done():
                future.cancel()
            return "cancelled"
        except CancelledError:
            return "cancelled"
        except FletcherError as error:
            require(
                not isinstance(error, StoppingError) or "cancelled" not in str(error), "a caller that stayed is dropped"
            )
            return type(error).__name__
        self._ends.append(ends)
        if len(answer) != len(texts):
            raise Violation(f"{len(answer)} vectors for {len(texts)} texts")
        for text, vector in zip(texts, np.asarray(answer.vectors, np.float32), strict=True):
            require(vector.tobytes() == right_vector(text), f"the vector of {text!r} is another text's")
        return "ok"
