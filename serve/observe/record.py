"""`RequestRecord`: the facts about one finished request, of HTTP or Flight. Metrics, logs and traces are made of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from .tracing import Trace

__all__ = ["Consumer", "Door", "RecordDraft", "RequestRecord", "Stages"]

Door = Literal["http", "flight"]


class Stages(msgspec.Struct, kw_only=True):
    """Seconds of a request by stage; 0 for a stage that it did not have. Stages of several batches are added up.

    Attributes:
        read: receiving the body.
        wait: waiting for a tokenizer and for a batch.
        tokenize: tokenizing.
        compute: computing the batches that it was part of.
        encode: making the answer's bytes of the vectors.
        total: from the request's arrival to its end.
    """

    read: float = 0.0
    wait: float = 0.0
    tokenize: float = 0.0
    compute: float = 0.0
    encode: float = 0.0
    total: float = 0.0


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a request that has ended. It never holds a text.

    Attributes:
        door: `http` or `flight`.
        id: the caller's `x-request-id`, or the server's own.
        client: name of the API key; without keys, the address of the peer.
        route: path of the route, or name of the Flight call; `unknown` for a path that does not exist.
        model: name of the model that answered; empty if none did.
        version: label of that model's version.
        texts: texts that were embedded, scored or stored.
        tokens: tokens that the model saw of them.
        bytes_in: bytes of the body; on Flight, of the record batches, the ticket or the action's body.
        bytes_out: the same of the answer.
        status: HTTP status; on Flight, `ok` or the name of the exception. `left` if the client left before it was answered.
        error: class of the error that ended the request, or that broke its stream after the status was sent; or None.
        stages: seconds by stage. Consumers must not change them.
        trace: the request's span, if it is traced.
    """

    door: Door
    id: str
    client: str
    route: str
    model: str
    version: str
    texts: int
    tokens: int
    bytes_in: int
    bytes_out: int
    status: int | str
    error: str | None
    stages: Stages
    trace: Trace | None


#: Receives the record of every request when the request has ended, on the thread that answered it.
Consumer = Callable[[RequestRecord], None]


class RecordDraft(msgspec.Struct, kw_only=True):
    """A request's record while the request is under way. The door, the handler and the engine fill it in.

    Attributes:
        started: `time.perf_counter()` of the request's arrival.
        answered: `time.perf_counter()` when the engine's latest answer arrived, or None.

    The other attributes are those of `RequestRecord`.
    """

    door: Door
    id: str
    client: str = ""
    route: str = "unknown"
    model: str = ""
    version: str = ""
    texts: int = 0
    tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status: int | str = "left"
    error: str | None = None
    stages: Stages = msgspec.field(default_factory=Stages)
    trace: Trace | None = None
    started: float = msgspec.field(default_factory=time.perf_counter)
    answered: float | None = None

    def count(self, model: str, version: str, answer: Any) -> None:
        """Add an engine's answer.

        Args:
            model, version: what answered.
            answer: `Embeddings` or another answer with a length and `tokens`, int64, (n,).
        """
        self.model = model
        self.version = version
        self.texts += len(answer)
        self.tokens += int(answer.tokens.sum())
        self.answered = time.perf_counter()

    def finish(self) -> RequestRecord:
        """Return the record. The engine may still add to the draft's stages afterwards, but not to the record's."""
        stages = copy.copy(self.stages)
        stages.total = time.perf_counter() - self.started
        return RequestRecord(
            door=self.door,
            id=self.id,
            client=self.client,
            route=self.route,
            model=self.model,
            version=self.version,
            texts=self.texts,
            tokens=self.tokens,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            status=self.status,
            error=self.error,
            stages=stages,
            trace=self.trace,
        )
