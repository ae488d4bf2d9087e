"""`Entry`: content of one line of the audit log. docs/reference/audit.md has the same fields, and their names in OCSF."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from ..observe.record import RequestRecord

__all__ = ["Entry", "Event", "body_of", "of_event", "of_request"]

#: Kinds of lines. `refused` is a request of a caller without rights; `recovered` begins a log whose last line was cut off.
Event = Literal["request", "refused", "change", "start", "stop", "dropped", "recovered"]

#: Errors of callers without rights.
REFUSALS: Final = frozenset({"UnauthorizedError", "ForbiddenError"})


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content of a line, without its number and the hash of the line before. A field that does not apply is left out.

    Attributes:
        time: end of the request or time of the event, in the form of RFC 3339, in UTC, with microseconds.
        event: kind of the line.
        client: name of the key, certificate or token; without them, the address of the caller.
        peer: address of the caller.
        door: `http` or `flight`.
        route: path of the route, or name of the Flight call.
        request_id, trace_id: ids of the request and of its trace.
        model, version, space: model that answered, and identifier of its vectors' space.
        texts, tokens: number of texts, and of tokens that the model saw.
        bytes_in, bytes_out: sizes of the body and of the answer.
        status: HTTP status; on Flight, `ok` or the name of the exception; `left` if the client disconnected first.
        error: class of the error.
        seconds: time from the arrival of the request to its end.
        change, subject, result, reason: change by an operator or of the server's files: its kind, the model, folder or file,
            `done` or `failed`, and the class of the error.
        count: number of lines that were dropped, or of bytes that were cut off.
        inputs: texts of the request, with `--audit-texts` only.
        inputs_cut: number of characters of the texts that are missing in `inputs`.
    """

    time: str
    event: Event
    client: str = ""
    peer: str = ""
    door: str = ""
    route: str = ""
    request_id: str = ""
    trace_id: str = ""
    model: str = ""
    version: str = ""
    space: str = ""
    texts: int = 0
    tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status: int | str = ""
    error: str = ""
    seconds: float = 0.0
    change: str = ""
    subject: str = ""
    result: str = ""
    reason: str = ""
    count: int = 0
    inputs: tuple[str, ...] = ()
    inputs_cut: int = 0


_encoder = msgspec.json.Encoder()


def body_of(entry: Entry) -> bytes:
    """Return the content of a line in JSON without the braces. It has no newline."""
    return _encoder.encode(entry)[1:-1]


def of_request(record: RequestRecord, at: float) -> Entry:
    """Return the entry of a finished request.

    Args:
        record: record of the request.
        at: time of its end, in seconds since 1970.
    """
    return Entry(
        time=_time(at),
        event="refused" if record.error in REFUSALS else "request",
        client=record.client,
        peer=record.peer,
        door=record.door,
        route=record.route,
        request_id=record.id,
        trace_id="" if record.trace is None else record.trace.id,
        model=record.model,
        version=record.version,
        space=record.space,
        texts=record.texts,
        tokens=record.tokens,
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
        status=record.status,
        error=record.error or "",
        seconds=round(record.stages.total, 6),
        inputs=record.inputs,
        inputs_cut=record.inputs_cut,
    )


def of_event(event: Event, at: float, fields: Mapping[str, str | int]) -> Entry:
    """Return the entry of another event.

    Args:
        event: kind of the event.
        at: its time, in seconds since 1970.
        fields: fields of `Entry`.
    """
    return Entry(time=_time(at), event=event, **fields)  # type: ignore[arg-type]


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
