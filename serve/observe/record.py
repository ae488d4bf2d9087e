"""`RequestRecord`: record of one finished request of HTTP or Flight. Metrics, logs and traces are made from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from .trace import Trace

__all__ = ["MOST_CHARACTERS", "Consumer", "Door", "RequestRecord", "Stages"]

Door = Literal["http", "flight"]

#: Characters of the texts of a request that the audit log has at most: the end of a log is read in blocks of 256 KiB, a line
#: must fit, and a character has up to six bytes in JSON.
MOST_CHARACTERS: Final = 32_768


class Stages(msgspec.Struct, kw_only=True):
    """Seconds of a request by stage; 0 for a stage that it did not have. Times of several batches are added.

    Attributes:
        read: time to receive the body.
        wait: wait for a tokenizer and for a batch.
        tokenize: time to tokenize the texts.
        compute: time to compute the batches that had rows of the request.
        encode: time to make the bytes of the answer from the vectors.
        total: time from the arrival of the request to its end.
    """

    read: float = 0.0
    wait: float = 0.0
    tokenize: float = 0.0
    compute: float = 0.0
    encode: float = 0.0
    total: float = 0.0


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Record of a finished request. It has texts of the request only if the audit log shall have them.

    Attributes:
        door: `http` or `flight`.
        id: `x-request-id` of the caller, or an id from the server.
        client: name of the API key; without keys, the address of the caller.
        peer: address of the caller; empty over a Unix socket.
        route: path of the route, or name of the Flight call; `unknown` for a path that does not exist.
        model: name of the model that answered; empty if no model answered.
        version: label of the version that answered.
        space: identifier of the space of the answer's vectors; empty if it has none.
        texts: number of texts that were embedded, scored or stored.
        tokens: number of tokens of these texts that the model saw.
        bytes_in: size of the body in bytes; on Flight, of the record batches, the ticket or the body of the action.
        bytes_out: size of the answer in bytes.
        status: HTTP status; on Flight, `ok` or the name of the exception. `left` if the client disconnected first.
        error: class of the error that ended the request, or that ended its stream after the status was sent; or None.
        stages: seconds by stage. Consumers must not change them.
        trace: trace of the request, or None if it is not traced.
        inputs: texts of the request that the audit log shall have, cut to `MOST_CHARACTERS` together; otherwise empty.
        inputs_cut: number of characters that are missing in them.
    """

    door: Door
    id: str
    client: str
    peer: str
    route: str
    model: str
    version: str
    space: str
    texts: int
    tokens: int
    bytes_in: int
    bytes_out: int
    status: int | str
    error: str | None
    stages: Stages
    trace: Trace | None
    inputs: tuple[str, ...] = ()
    inputs_cut: int = 0


#: Function that receives the record of each finished request, on the thread that answered the request.
Consumer = Callable[[RequestRecord], None]
