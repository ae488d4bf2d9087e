"""`Call`: an open HTTP request. It reads the body within limits of size and time, and sends requests to the engine."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec

from fletcher.model_zoo.card import Output
from fletcher.runtime.errors import DeadlineError, InputError, OptionError
from fletcher.runtime.inputs import Inputs, Requested, TokenIds
from fletcher.runtime.options.embed import EmbedOptions

from ..access.permit import Permit
from ..byte_budget import ByteBudget
from ..engine.embed_request import PLAIN, EmbedRequest
from ..engine.price import answer_bytes, charged_tokens, is_bulk
from ..engine.terms import Priority, Terms
from ..errors import FieldError, SlowBodyError, TooLargeError
from ..models.registry import ANSWERED_BY, VECTORS, Models
from ..models.version import ModelVersion
from ..observe.requests import RecordDraft
from ..request_headers import OnTruncate
from .bridge import Bridge, ClientLeftError, Message, Receive
from .coding.answers import Density
from .coding.bodies import check_coding, decompress

__all__ = ["JSON", "AsgiApp", "Call", "Handler", "Limits", "Response", "Scope", "Send"]

T = TypeVar("T")

Scope = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

#: An application of ASGI.
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"

#: Largest size of a body in bytes: 2,048 texts of 16 KiB, or one book. For more text, a bulk job is better.
MAX_BODY_BYTES = 32 << 20

#: Seconds in which a body must arrive: 32 MiB at 10 Mbit/s take 27 s.
BODY_SECONDS = 30.0

#: Largest compressed body that is decompressed on the event loop. A larger one takes milliseconds, so a thread does it.
INLINE_COMPRESSED = 1 << 16

#: Part of the free budget that a compressed body may fill, so that several can be decompressed at the same time.
DECOMPRESSED_SHARE = 4

#: Size in bytes from which answers are compressed: below, the time of a network is shorter than that of compressing.
COMPRESS_BYTES = 64 << 10

#: Largest number of commas in a body, about the number of its elements. Decoding so many takes the event loop 0.1 s.
MAX_ELEMENTS = 1 << 22

#: Bytes of an element of a decoded body: a short string or list with its place in a list.
ELEMENT_BYTES = 96

#: Beginning of the engine's messages about one text, or one row of token ids.
ITEM = re.compile(r"(?:text|row) (\d+)\b(?: of token ids)?")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request.

    Attributes:
        body_bytes: largest size of a body in bytes after decompression.
        body_seconds: seconds in which a body must arrive.
        items: largest number of texts in a request; None for the limit of each API.
        tokens: largest number of tokens to compute for a request, over HTTP and Flight; None for no limit.
        compress_bytes: size in bytes from which answers are compressed for clients that accept it; None for no compression.
        on_truncate: policy for texts that are longer than the model takes, if the request does not name one.
        budget: bytes of the bodies and answers of all requests.
    """

    body_bytes: int = MAX_BODY_BYTES
    body_seconds: float = BODY_SECONDS
    items: int | None = None
    tokens: int | None = None
    compress_bytes: int | None = COMPRESS_BYTES
    on_truncate: OnTruncate = "report"
    budget: ByteBudget = field(default_factory=ByteBudget)

    def most_items(self, own: int) -> int:
        """Return the limit of items: the smaller one of the server's limit and an API's limit.

        Args:
            own: limit of the API.
        """
        return own if self.items is None else min(own, self.items)


@dataclass(frozen=True, slots=True)
class Response:
    """Answer of a route. The body is bytes, or an iterator over parts; its density decides whether it is compressed."""

    status: int
    body: bytes | AsyncIterator[bytes]
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    density: Density = "text"


@dataclass(slots=True)
class Call:
    """An open request.

    Attributes:
        scope: ASGI's scope.
        headers: headers by name in lower case; the last one if a name is repeated.
        receive: ASGI's receive.
        models: models of the server.
        limits: limits of the request.
        bridge: passes answers from the engine's threads to this event loop.
        bodies: tasks that wait for a body, with their start times; a task that waits too long is cancelled.
        client: name of the API key; empty without keys.
        timeout: `X-Request-Timeout` in seconds, or None.
        priority: `X-Priority`, or None.
        terms: priority, client and deadline of the request.
        on_truncate: policy for texts that are longer than the model takes.
        draft: draft of the request's record.
        permit: use of the client's limits, or None if it has none.
        fields: names of the body's fields by their names in `/v1/embeddings`, for the fields whose names differ; the handler
            sets it.
        items: returns the name in the body of the engine's text of an index; the handler sets it if the texts are not one
            list.
    """

    scope: Scope
    headers: Mapping[bytes, bytes]
    receive: Receive
    models: Models
    limits: Limits
    bridge: Bridge
    bodies: dict[asyncio.Task[Any], float]
    client: str
    timeout: float | None
    priority: Priority | None
    terms: Terms
    on_truncate: OnTruncate
    draft: RecordDraft
    permit: Permit | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    items: Callable[[int], str] | None = None

    def enter(self) -> Awaitable[None] | None:
        """Charge the request to its client, before its body is read. The request has a permit.

        Returns:
            What is to be awaited, or None if the charge is made.

        Raises:
            RateLimitError: the client is over a limit.
        """
        declared = self.headers.get(b"content-length", b"")
        return self._use(self._permitted.enter, int(declared) if declared.isdigit() and len(declared) < 16 else 1)

    def leave(self) -> Awaitable[None] | None:
        """Charge what the request really used. The request has a permit. The result is as of `enter`."""
        return self._use(self._permitted.leave, self.draft.tokens, self.draft.bytes_in)

    async def pace(self, tokens: int) -> None:
        """Charge the estimated tokens of a part of a stream, and wait while the client is over its rate.

        Raises:
            RateLimitError: the limit of the day is used up.
        """
        if self.permit is None:
            return
        if self.permit.remote:
            seconds = await asyncio.get_running_loop().run_in_executor(None, self.permit.pace, tokens)
        else:
            seconds = self.permit.pace(tokens)
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def correct(self, tokens: int) -> None:
        """Charge the real number of tokens of the oldest part of a stream. The request has a permit."""
        if (correcting := self._use(self._permitted.correct, tokens)) is not None:
            await correcting

    @property
    def _permitted(self) -> Permit:
        assert self.permit is not None
        return self.permit

    def _use(self, function: Callable[..., None], *amounts: int) -> Awaitable[None] | None:
        """Call a method of the permit; on another thread, which is to be awaited, if it waits for the network."""
        if self._permitted.remote:
            return asyncio.get_running_loop().run_in_executor(None, partial(function, *amounts))
        function(*amounts)
        return None

    def pick(self, name: str | None, outputs: Sequence[Output] = VECTORS) -> ModelVersion:
        """Return the version that answers, if the client may use it, as `Models.pick`.

        Raises:
            UnknownModelError, InputError: as for `Models.pick`.
            ForbiddenError: the client's key is for other models.
        """
        version = self.models.pick(name, outputs)
        if self.permit is not None:
            self.permit.check_model(version.spec.name)
        return version

    def wants(self, media_type: bytes) -> bool:
        """Return whether the client accepts answers of a media type."""
        return media_type in self.headers.get(b"accept", b"")

    async def body(self) -> bytes:
        """Return the complete body, decompressed.

        Raises:
            TooLargeError: the body is larger than the limit.
            SlowBodyError: the body did not arrive in time.
            MediaTypeError: the body has an unknown content coding.
            FieldError: the body is empty, or does not have the content coding that its header names.
            ClientLeftError: the client disconnected.
        """
        limit, started = self.limits.body_bytes, time.perf_counter()
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise TooLargeError(
                f"the body has {int(declared)} bytes; the limit is {limit}: send it in several requests"
            )
        header = self.headers.get(b"content-encoding")
        coding = None if header is None else check_coding(header)
        task = asyncio.current_task()
        assert task is not None
        self.bodies[task] = asyncio.get_running_loop().time()
        parts: list[bytes] = []
        budget, draft = self.limits.budget, self.draft
        try:
            more = True
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                parts.append(part := message.get("body", b""))
                budget.hold(len(part), draft)
                draft.bytes_in += len(part)
                if draft.bytes_in > limit:
                    raise TooLargeError(f"the body has more than {limit} bytes: send it in several requests")
                more = message.get("more_body", False)
        except asyncio.CancelledError:
            # `HttpApp` removes the task from `bodies` before it cancels the task because of a late body.
            if task not in self.bodies:
                task.uncancel()
                seconds = self.limits.body_seconds
                raise SlowBodyError(
                    f"the body did not arrive within {seconds:g} s: send it faster, or in several requests"
                ) from None
            raise
        finally:
            self.bodies.pop(task, None)
            self.draft.stages.read = time.perf_counter() - started
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if coding is not None and body:
            most = min(limit, max(len(body), (budget.limit - budget.used) // DECOMPRESSED_SHARE))
            budget.hold(most, draft)
            if len(body) <= INLINE_COMPRESSED:
                body = decompress(body, coding, most)
            else:
                body = await asyncio.get_running_loop().run_in_executor(None, decompress, body, coding, most)
            budget.hold(len(body) - most, draft)
        if not body:
            raise FieldError("the body is empty: send the request in the body", None)
        elements = body.count(b",")
        if elements > MAX_ELEMENTS:
            raise TooLargeError(f"the body has more than {MAX_ELEMENTS} elements: send it in several requests")
        # A character takes four bytes in a string with an emoji, which JSON can write in ASCII.
        width = 1 if body.isascii() and b"\\u" not in body else 4
        made = width * len(body) + ELEMENT_BYTES * elements
        budget.hold(made, draft)
        return body

    def stream_terms(self) -> Terms:
        """Return the terms of the first part of a stream. Its class is `bulk` if the request names no class."""
        if self.priority is None:
            self.draft.chosen = "bulk"
        return self.terms.as_stream(self.priority or "bulk")

    async def ask(
        self,
        name: str | None,
        inputs: Inputs,
        options: EmbedOptions = PLAIN,
        output: Requested = "vectors",
        *,
        terms: Terms | None = None,
        first: int = 0,
    ) -> tuple[ModelVersion, Any]:
        """Submit a request to a model's engine and wait for the answer.

        Args:
            name: name of the model; None for the first model with the requested output.
            inputs: texts, token ids, or pairs.
            options: options for embedding.
            output: the requested output, or several of one pass.
            terms: terms of a part of a stream. Default: the terms of the call; a large request is a bulk request if it names
                no class.
            first: index of the first input in the request, if the inputs are a part of it.

        Returns:
            The version that answered, and its answer.

        Raises:
            FletcherError: an error of the engine.
            OptionError: the model does not have an option; the error names the request's field.
            DeadlineError: the timeout of the client passed.
            ClientLeftError: the client disconnected.
        """
        if terms is None:
            terms = self.terms
            if self.priority is None and is_bulk(inputs):
                terms = msgspec.structs.replace(terms, priority="bulk")
                self.draft.chosen = "bulk"
        request = EmbedRequest(inputs, options, output, terms)
        if self.on_truncate == "refuse":
            request = request.refusing_long()
        held = 0
        try:
            while True:
                version = self.models.pick(name, ANSWERED_BY[output], request)
                if not held:
                    if self.permit is not None:
                        self.permit.check_model(version.spec.name)
                        if (charging := self._charge(request, version)) is not None:
                            await charging
                    held = answer_bytes(request, version.info)
                    self.limits.budget.hold(held, self.draft)
                future = self.models.submit(version, request, self.draft)
                if future is not None:
                    break
                if not version.retired:
                    await self._in_time(asyncio.wrap_future(version.wake_soon()))
            if self.timeout is None:
                answer = await self.bridge.wait(future, self.receive)
            else:
                answer = await self._in_time(self.bridge.wait(future, self.receive))
        except OptionError as error:
            raise self.name_field(error) from error
        except InputError as error:
            raise self.name_item(error, first) from error
        self.draft.space = version.spaces.of(options, output, has_ids=isinstance(inputs, TokenIds))
        self.draft.count(version.description.name, version.description.version, answer)
        if self.permit is not None and terms.stream:
            await self.correct(sum(answer.tokens.tolist()))
        return version, answer

    async def _in_time(self, waited: Awaitable[T]) -> T:
        """Wait for an answer, or for a model that wakes, until the deadline of the request.

        Raises:
            DeadlineError: the timeout of the client passed.
        """
        deadline = self.terms.deadline
        try:
            async with asyncio.timeout(None if deadline is None else max(deadline - time.monotonic(), 0.0)):
                return await waited
        except TimeoutError:
            raise DeadlineError(
                f"the request's {self.timeout:g} s (X-Request-Timeout) passed before it was answered"
            ) from None

    def _charge(self, request: EmbedRequest, version: ModelVersion) -> Awaitable[None] | None:
        """Charge the estimated tokens of a request; a part of a stream waits instead of being refused."""
        tokens = charged_tokens(request, version.info)
        if request.terms.stream:
            return self.pace(tokens)
        return self._use(self._permitted.spend, tokens)

    def stay_in_space(self) -> None:
        """Refuse vectors of another space than the first part of the answer has, in all later parts."""
        self.terms = self.terms.within(self.draft.space)

    def name_field(self, error: OptionError) -> OptionError:
        """Return an error about an option with the name of the request's field that set the option."""
        name = self.fields.get(error.field)
        if name is None:
            return error
        return OptionError(name, re.sub(rf"\b{error.field}\b", name, str(error), count=1))

    def name_item(self, error: InputError, first: int = 0) -> InputError:
        """Return an error about one text or row with the name of its item, such as `input[3]`, in the request.

        Args:
            error: error of the engine.
            first: index in the request of the engine's first text.
        """
        match = ITEM.match(str(error))
        if match is None or error.field is not None:
            return error
        index = int(match[1]) + first
        field = f"{self.fields.get('input', 'input')}[{index}]" if self.items is None else self.items(index)
        named = type(error)(field + str(error)[match.end() :])
        named.field = field
        return named


#: Function that answers the requests of a route.
Handler = Callable[[Call], Awaitable[Response]]
