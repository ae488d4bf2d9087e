"""One HTTP request on its way: its headers, its body within bounds of size and time, and its question to the engine."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fletcher.model_zoo.card import Output
from fletcher.runtime.errors import DeadlineError

from ..engine.terms import Terms
from ..errors import FieldError, MediaTypeError, SlowBodyError, TooLargeError
from ..models.registry import VECTORS, Ask, Models
from ..models.version import Version
from ..request_headers import read_priority, read_timeout
from .bridge import Bridge, ClientLeftError, Receive

if TYPE_CHECKING:
    from ..observe.tracing import Trace

__all__ = ["JSON", "Call", "Handler", "Limits", "Response", "Scope"]

Scope = Mapping[str, Any]

JSON = b"application/json"

#: 2,048 texts of 16 KiB, or one book; more belongs into a bulk job.
MAX_BODY_BYTES = 32 << 20

#: Seconds in which a body must be there: 32 MiB at 10 Mbit/s take 27.
BODY_SECONDS = 30.0

#: Bytes that are decompressed on the event loop; more takes milliseconds, and another thread.
INLINE_GZIP = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may have.

    Attributes:
        body_bytes: bytes of a body, decompressed.
        body_seconds: seconds until it is there.
        items: texts of a request; None is each API's own limit.
        tokens: that a request may have the model compute, on both doors; None is no limit.
    """

    body_bytes: int = MAX_BODY_BYTES
    body_seconds: float = BODY_SECONDS
    items: int | None = None
    tokens: int | None = None

    def most_items(self, own: int) -> int:
        """The smaller of the server's and the API's own limit."""
        return own if self.items is None else min(own, self.items)


@dataclass(frozen=True, slots=True)
class Response:
    """What a route gives: a body, or one that comes in pieces."""

    status: int
    body: bytes | AsyncIterator[bytes]
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Call:
    """A request.

    Attributes:
        scope: ASGI's.
        headers: by name in lower case; of several of one name the last.
        receive: ASGI's.
        request_id: the caller's, or a new one.
        models: what is served.
        limits: what it may have.
        client: the name of its API key; empty without keys.
        bridge: from the engine's threads to this loop.
        priority: `X-Priority`, or `normal`.
        timeout: `X-Request-Timeout` in seconds, or None.
        deadline: `time.monotonic()` at its end, or None.
        trace: what is told of its stages, or None.
    """

    __slots__ = (
        "bodies",
        "bridge",
        "client",
        "deadline",
        "headers",
        "limits",
        "models",
        "priority",
        "receive",
        "request_id",
        "scope",
        "timeout",
        "trace",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        request_id: bytes,
        models: Models,
        limits: Limits,
        bridge: Bridge,
        bodies: dict[asyncio.Task[Any], float],
    ) -> None:
        """
        Args:
            scope, receive, request_id, models, limits, bridge: see above.
            bodies: the tasks that wait for a body, and since when; whoever waits too long is cancelled.

        Raises:
            FieldError: a header cannot be used.
        """
        self.scope = scope
        self.receive = receive
        self.request_id = request_id
        self.models = models
        self.limits = limits
        self.bridge = bridge
        self.bodies = bodies
        self.client = ""
        self.trace: Trace | None = None
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.priority = read_priority(self.headers.get(b"x-priority"))
        self.timeout = read_timeout(self.headers.get(b"x-request-timeout"))
        self.deadline = None if self.timeout is None else time.monotonic() + self.timeout

    @property
    def terms(self) -> Terms:
        """How its questions wait."""
        client = self.client
        if not client and (peer := self.scope.get("client")):
            client = peer[0]
        return Terms(self.priority, client, self.deadline, self.trace)

    def wants(self, media_type: bytes) -> bool:
        """Whether the client asks for answers of a type."""
        return media_type in self.headers.get(b"accept", b"")

    async def body(self) -> bytes:
        """The whole body, decompressed.

        Raises:
            TooLargeError: it is larger than the limit.
            SlowBodyError: it did not come in time.
            MediaTypeError: it is compressed in another way than gzip.
            FieldError: it is no gzip.
            ClientLeftError: the client left.
        """
        limit = self.limits.body_bytes
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise TooLargeError(
                f"the body has {int(declared)} bytes; the limit is {limit}: send it in several requests"
            )
        coding = self.headers.get(b"content-encoding", b"identity").lower()
        if coding not in (b"identity", b"gzip"):
            raise MediaTypeError(f"the body's coding is {coding.decode('latin-1')!r}: send it plain or as gzip")
        task = asyncio.current_task()
        assert task is not None
        self.bodies[task] = asyncio.get_running_loop().time()
        try:
            body = await self._read(limit)
        except asyncio.CancelledError:
            if task not in self.bodies:  # the watch cancelled it, and nobody else
                task.uncancel()
                seconds = self.limits.body_seconds
                raise SlowBodyError(
                    f"the body was not there after {seconds:g} s: send it faster, or in parts"
                ) from None
            raise
        finally:
            self.bodies.pop(task, None)
        if coding == b"identity" or not body:
            return body
        if len(body) <= INLINE_GZIP:
            return gunzip(body, limit)
        return await asyncio.get_running_loop().run_in_executor(None, gunzip, body, limit)

    async def _read(self, limit: int) -> bytes:
        message = await self.receive()
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLargeError(f"the body has more than {limit} bytes: send it in several requests")
            if not message.get("more_body"):
                return b"".join([*parts, part]) if parts else part
            parts.append(part)
            message = await self.receive()

    async def ask(
        self, name: str | None, question: Ask, *, outputs: Sequence[Output] = VECTORS, heavy: bool = False
    ) -> tuple[Version, Any]:
        """Hands a question to the model's engine and waits for the answer.

        Args:
            name: the model's; None is the first that has such an output.
            question: given an engine, submits.
            outputs: what the route can use.
            heavy: whether submitting takes so long that another thread does it.

        Raises:
            FletcherError: the engine's.
            DeadlineError: the client's own time is over.
            ClientLeftError: the client left.
        """
        timeout = self.timeout
        loop = asyncio.get_running_loop()
        while True:
            version = self.models.pick(name, outputs)
            if heavy:
                future = await loop.run_in_executor(None, self.models.submit, version, question)
            else:
                future = self.models.submit(version, question)
            if future is not None:
                break
            if not version.retired:
                await loop.run_in_executor(None, version.wake)
        if timeout is None:
            return version, await self.bridge.wait(future, self.receive)
        try:
            async with asyncio.timeout(timeout):
                return version, await self.bridge.wait(future, self.receive)
        except TimeoutError:
            raise DeadlineError(
                f"the request's {timeout:g} s (X-Request-Timeout) passed before it was answered"
            ) from None


Handler = Callable[[Call], Awaitable[Response]]


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompresses, and stops where the limit is passed: a bomb never unfolds.

    Raises:
        TooLargeError: what comes out is larger than the limit.
        FieldError: it is no gzip, or not all of it.
    """
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = reader.decompress(data, limit + 1)
    except zlib.error as error:
        raise FieldError(f"the body is not the gzip that its Content-Encoding says: {error}", None) from None
    if len(plain) > limit:
        raise TooLargeError(f"the body has more than {limit} bytes when decompressed: send it in several requests")
    if not reader.eof or reader.unused_data:
        raise FieldError("the body's gzip is cut off, or has something behind it", None)
    return plain
