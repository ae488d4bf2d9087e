"""`RequestRecord`: the facts about one finished request, of HTTP or Flight. Metrics, logs and traces are made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["Consumer", "Door", "RequestRecord", "Stages"]

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
