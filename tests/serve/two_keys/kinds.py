"""Kinds of requests that a client may send: every route of the OpenAPI document, and every call and action of Flight."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import cbor2
import httpx
import pyarrow as pa
import pyarrow.flight as fl

__all__ = ["SECONDS", "Answer", "Kind", "Target", "kinds"]

SECONDS: Final = 60.0

#: Headers with the time, an id, or a duration until a limit is back, which differ from one request to the next.
VOLATILE: Final = frozenset(
    {"date", "x-request-id", "traceparent", "server-timing", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"}
)

#: Routes whose answer is about the whole server: their statuses are compared, and not their bodies.
WHOLE_SERVER: Final = ("/metrics", "/ready", "/info")

TEXTS: Final = ["a text of bob", "another one", "and a third, which is longer"]


@dataclass(frozen=True, slots=True)
class Target:
    """A server.

    Attributes:
        http, flight: addresses.
        embedder, reranker: names of its models.
        client: client for HTTP without a key.
    """

    http: str
    flight: str
    embedder: str
    reranker: str
    client: httpx.Client


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client sees of an answer, without what differs from one request to the next.

    Attributes:
        status: HTTP status, or the class of Flight's error.
        headers: headers by name.
        body: the content.
    """

    status: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request.

    Attributes:
        name: name for messages.
        send: sends one with a key.
    """

    name: str
    send: Callable[[str], Answer]


def kinds(target: Target, key: str) -> Iterator[Kind]:
    """Yield the kinds of requests of a server; the key is for the question which actions there are."""
    document = target.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            model = target.reranker if "rank" in path or "score" in path else target.embedder
            place = path.replace("{model}", model).replace("{id}", model)
            content = described.get("requestBody", {}).get("content", {})
            for media_type in content or [""]:
                body = _body(media_type, content.get(media_type, {}), model)
                send = partial(_http, target.client, place, method, body)
                headers = {"content-type": media_type} if media_type else {}
                yield Kind(f"{method.upper()} {path}", partial(send, headers))
                if path in ("/v1/embeddings", "/embed"):
                    for name, value in (("accept", "application/x-ndjson"), ("accept-encoding", "zstd")):
                        yield Kind(f"{method.upper()} {path}, {value}", partial(send, headers | {name: value}))
    yield Kind("flight exchange", partial(_flight, target, _exchange))
    yield Kind("flight put", partial(_flight, target, _put))
    yield Kind("flight get", partial(_flight, target, _get))
    yield Kind("flight info", partial(_flight, target, _info))
    yield Kind("flight list", partial(_flight, target, _list))
    yield Kind("flight actions", partial(_flight, target, _actions))
    with fl.connect(target.flight) as client:
        actions = [action.type for action in client.list_actions(_options(key))]
    for action in actions:
        yield Kind(f"flight action {action}", partial(_flight, target, partial(_act, action)))


# HTTP -------------------------------------------------------------------------------------------------------------------


def _body(media_type: str, described: Mapping[str, Any], model: str) -> bytes:
    """Return a body of a route: the example of the document, with the name of a model that is there."""
    if not media_type:
        return b""
    if media_type == "application/cbor":
        return cbor2.dumps(TEXTS)
    if media_type == "application/vnd.apache.arrow.stream":
        sink = io.BytesIO()
        batch = _batch()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue()
    example = dict(described["example"])
    if "model" in example:
        example["model"] = model
    return json.dumps(example).encode()


def _http(client: httpx.Client, path: str, method: str, body: bytes, more: Mapping[str, str], key: str) -> Answer:
    headers = {"authorization": f"Bearer {key}", "accept-encoding": "identity", **more}
    answer = client.request(method, path, content=body, headers=headers)
    shown = {name: value for name, value in answer.headers.items() if name not in VOLATILE}
    if "ratelimit" in shown:  # without the seconds until all is back
        shown["ratelimit"] = ", ".join(part.partition(";t=")[0] for part in shown["ratelimit"].split(", "))
    content = b"" if path in WHOLE_SERVER else _without_times(answer.content, answer.headers["x-request-id"])
    shown.pop("content-length", None)  # of a body with a time in it
    return Answer(str(answer.status_code), shown, content)


def _without_times(content: bytes, request_id: str) -> bytes:
    """Return a body without the id and the times of its request."""
    if content.startswith(b"\xff\xff\xff\xff"):  # a stream of Arrow, whose schema has the time
        return _bytes_of(pa.ipc.open_stream(content).read_all())
    try:
        value = json.loads(content)
    except ValueError:
        return content
    if isinstance(value, dict):
        for name in ("created", "total_duration", "load_duration", "uptime_seconds"):
            value.pop(name, None)
        if value.get("id") == request_id:
            del value["id"]
        if isinstance(value.get("error"), dict):
            value["error"].pop("request_id", None)
    return json.dumps(value).encode()


# Flight -----------------------------------------------------------------------------------------------------------------


class _Headers(fl.ClientMiddlewareFactory):  # type: ignore[misc]
    """Keeps the headers of the latest answer."""

    def __init__(self) -> None:
        super().__init__()
        self.received: dict[str, str] = {}

    def start_call(self, info: Any) -> Any:
        outer = self

        class Keeping(fl.ClientMiddleware):  # type: ignore[misc]
            def received_headers(self, headers: Mapping[str, list[str]]) -> None:
                outer.received |= {name: str(values[0]) for name, values in headers.items()}

        return Keeping()


def _options(key: str) -> Any:
    return fl.FlightCallOptions(timeout=SECONDS, headers=[(b"authorization", f"Bearer {key}".encode())])


def _batch() -> Any:
    return pa.RecordBatch.from_pydict({"text": TEXTS})


def _flight(target: Target, call: Callable[[Any, Target, Any], bytes], key: str) -> Answer:
    kept = _Headers()
    status, body = "ok", b""
    with fl.FlightClient(target.flight, middleware=[kept]) as client:
        try:
            body = call(client, target, _options(key))
        except (fl.FlightError, pa.ArrowException) as error:
            status, body = type(error).__name__, str(error).partition(". Detail")[0].partition(" [")[0].encode()
    shown = {name: value for name, value in kept.received.items() if name.startswith(("x-ratelimit-", "x-priority"))}
    return Answer(status, {name: value for name, value in shown.items() if name not in VOLATILE}, body)


def _bytes_of(table: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata(None).combine_chunks())
    return sink.getvalue()


def _schema_of(info: Any) -> bytes:
    return bytes(info.schema.remove_metadata().serialize().to_pybytes())  # the metadata has the time


def _exchange(client: Any, target: Target, options: Any) -> bytes:
    described = fl.FlightDescriptor.for_command(json.dumps({"model": target.embedder}).encode())
    writer, reader = client.do_exchange(described, options)
    with writer:
        writer.begin(_batch().schema)
        for _ in range(2):
            writer.write_batch(_batch())
        writer.done_writing()
        return _bytes_of(reader.read_all())


def _put(client: Any, target: Target, options: Any) -> bytes:
    writer, _ = client.do_put(fl.FlightDescriptor.for_path("dataset"), _batch().schema, options)
    with writer:
        writer.write_batch(_batch())
        writer.done_writing()
    return b""


def _get(client: Any, target: Target, options: Any) -> bytes:
    ticket = json.dumps({"model": target.embedder, "texts": TEXTS}).encode()
    return _bytes_of(client.do_get(fl.Ticket(ticket), options).read_all())


def _info(client: Any, target: Target, options: Any) -> bytes:
    return _schema_of(client.get_flight_info(fl.FlightDescriptor.for_path("embed"), options))


def _list(client: Any, target: Target, options: Any) -> bytes:
    return b" ".join(_schema_of(each) for each in client.list_flights(b"", options))


def _actions(client: Any, target: Target, options: Any) -> bytes:
    return b" ".join(action.type.encode() for action in client.list_actions(options))


def _act(name: str, client: Any, target: Target, options: Any) -> bytes:
    results = b"".join(result.body.to_pybytes() for result in client.do_action(fl.Action(name, b"{}"), options))
    return b"" if name == "stats" else results
