"""`FlightServer`: `DoExchange` and `DoGet` embed texts, `DoPut` writes to Longbow, actions report and administrate."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.flight as fl

from fletcher import __version__
from fletcher.runtime.errors import FletcherError, ServiceError
from fletcher.runtime.inputs import Texts

from ..access.addresses import HostPort
from ..access.gate import Gate
from ..access.permit import Permit
from ..arrow.batches import DEFAULT_COLUMN, output_schema, with_vectors
from ..arrow.options import ArrowOptions
from ..byte_budget import ByteBudget
from ..engine.embed_request import EmbedRequest
from ..engine.price import answer_bytes
from ..errors import FieldError, ForbiddenError, UnknownRouteError
from ..longbow.door import LongbowDoor
from ..models.admin_action import AdminAction
from ..models.changes import ADMIN_OFF, AdminRules, unloading
from ..models.registry import ANSWERED_BY, Models
from ..observe.logs import trace_fields
from ..observe.record import Consumer
from ..observe.requests import RecordDraft, Requests
from .bounds import MAX_TICKET_TEXTS, FlightBounds
from .charging import charge
from .errors import flight_error
from .exchange import Exchange, Stream, wait
from .middleware import CallerFactory, RequestIdFactory, admit, caller_of, certificate_of, peer_of, request_id
from .options import read_options, read_ticket
from .put import flight_put

if TYPE_CHECKING:
    from ..observe.tracing import Tracing

__all__ = ["FlightServer"]

logger = logging.getLogger("fletcher.serve.flight")

EMBED = b"embed"

#: Largest size of a message in bytes, if the server's options set none.
MESSAGE_BYTES = 32 << 20

#: Copies of a ticket: itself, its texts as strings, which may take four bytes per character, and its texts in Arrow.
TICKET_COPIES = 6

ACTIONS = {
    "info": "The served model and the server, as JSON",
    "stats": "The metrics, in Prometheus' text format",
    "health": "Whether the server is ready, and the reason if it is not, as JSON",
    "load": "Loads or replaces a model; the body is the JSON of POST /admin/models; only for admins",
    "unload": "Unloads a model; the body is its NAME or NAME@VERSION; only for admins",
}


class FlightServer(fl.FlightServerBase):  # type: ignore[misc]
    """Flight server. It listens from its construction until `stop`."""

    def __init__(
        self,
        models: Models,
        gate: Gate,
        address: HostPort | str,
        longbow: LongbowDoor | None = None,
        tracing: Tracing | None = None,
        consumers: Sequence[Consumer] = (),
        admin: AdminRules = ADMIN_OFF,
        bounds: FlightBounds | None = None,
    ) -> None:
        """Listen on an address.

        Args:
            models: models of the server.
            gate: checks API keys.
            address: address to listen on; port 0 takes a free port. Text is the path of a Unix socket.
            longbow: connection to Longbow, for `DoPut`; None rejects `DoPut`.
            tracing: begins and ends spans; None makes no spans.
            consumers: receive the record of every call, besides metrics, log and traces.
            admin: rules of the admin API; only `on` accepts changes of models by actions.
            bounds: limits of what calls hold. Default: 32 MiB for a message, and a budget of their own.

        Raises:
            ServiceError: gRPC cannot listen on the address.
        """
        self._bounds = FlightBounds(ByteBudget(), MESSAGE_BYTES) if bounds is None else bounds
        self._models = models
        self._gate = gate
        self._longbow = longbow
        self._admin = admin
        self._tracing = tracing
        self._requests = Requests(models.metrics, tracing, consumers)
        self._exchanges: set[Exchange] = set()
        self._lock = threading.Lock()
        location = f"grpc+unix://{address}" if isinstance(address, str) else f"grpc://{address}"
        ids = RequestIdFactory()
        middleware = {"request-id": ids, "caller": CallerFactory(gate, ids, self._requests)}
        try:
            super().__init__(location, middleware=middleware)
        except (pa.ArrowException, OSError) as error:
            raise ServiceError(f"Flight cannot listen on {address}: {error}") from error
        self._own_name = address if isinstance(address, str) else self.port
        self.url = location if isinstance(address, str) else f"grpc://{HostPort(address.host, self.port)}"

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Embed a stream of record batches."""
        with self._call("exchange", context) as draft:
            stream, terms = Stream(reader, writer, context), caller_of(context).stream_terms(draft)
            exchange = Exchange(self._models, self._options(descriptor), stream, terms, draft, self._bounds)
            with self._lock:
                self._exchanges.add(exchange)
            try:
                exchange.run()
            finally:
                with self._lock:
                    self._exchanges.discard(exchange)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Embed a stream of record batches and store the vectors in Longbow."""
        with self._call("put", context) as draft:
            stream, terms = Stream(reader, writer, context), caller_of(context).stream_terms(draft)
            flight_put(self._longbow, self._models, descriptor, stream, terms, draft, self._bounds)

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """Return a description of the answers of `DoExchange` to this descriptor."""
        with self._call("info", context):
            return self._info(descriptor, self._options(descriptor))

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """Return the schema of the answers of `DoExchange`."""
        with self._call("schema", context):
            return fl.SchemaResult(self._info(descriptor, self._options(descriptor)).schema)

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Embed the texts of a ticket: JSON with `texts` and the options of `DoExchange`."""
        with self._call("get", context) as draft:
            draft.bytes_in = len(ticket.ticket)
            self._bounds.check(draft.bytes_in, "ticket")
            texts, options = read_ticket(ticket.ticket, self._models)
            if len(texts) > MAX_TICKET_TEXTS:
                raise FieldError(
                    f"the ticket has {len(texts)} texts; the limit is {MAX_TICKET_TEXTS}: use DoExchange", "texts"
                )
            terms = caller_of(context).terms(draft)
            request = EmbedRequest(Texts(tuple(texts)), options.embed, options.output, terms=terms)
            version = self._models.pick(options.model, ANSWERED_BY[options.output])
            charge(caller_of(context).permit, request, version)
            held = TICKET_COPIES * draft.bytes_in + answer_bytes(request, version.info)
            self._bounds.budget.hold(held)
            try:
                return self._get(request, options, context, draft, held)
            except BaseException:
                self._bounds.budget.hold(-held)
                raise

    def _get(self, request: EmbedRequest, options: ArrowOptions, context: Any, draft: RecordDraft, held: int) -> Any:
        """Return the answer to a ticket, which gives the held bytes back when it is sent."""
        assert isinstance(request.inputs, Texts)
        texts = request.inputs.texts
        version, future = self._models.submit_blocking(options.model, request, draft)
        embeddings = wait(future, context, request.terms.deadline)
        draft.count(version.description.name, version.description.version, embeddings)
        batch = pa.RecordBatch.from_pydict({options.column or DEFAULT_COLUMN: pa.array(texts, pa.string())})
        space = version.spaces.of(options.embed, options.output)
        schema = output_schema(batch.schema, version.description, options.embed, space, options.output)
        answer = with_vectors(batch, embeddings, schema)
        draft.bytes_out = answer.nbytes
        return fl.GeneratorStream(schema, self._bounds.sending(answer, held), options.ipc)

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """Return the only descriptor, `embed`."""
        with self._call("list", context):
            return iter([self._info(fl.FlightDescriptor.for_path(EMBED), ArrowOptions())])

    def list_actions(self, context: Any) -> list[Any]:
        """Return the actions and their descriptions."""
        with self._call("actions", context):
            return list(ACTIONS.items())

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        """Run one of `ACTIONS`."""
        with self._call("action", context) as draft:
            draft.bytes_in = action.body.size
            if action.type == "info":
                body = msgspec.json.encode(
                    {"server": "fletcher", "version": __version__, "model": self._models.pick().description}
                )
            elif action.type == "health":
                reason = self._models.not_ready()
                state = {"status": "ok", "ready": not reason, "reason": reason, "canary": self._models.canary}
                body = msgspec.json.encode(state)
            elif action.type in ("load", "unload"):
                body = self._change(action, context, draft)
            elif action.type == "stats":
                self._gate.enter(
                    "metrics", caller_of(context).authorization, peer=None, certificate=certificate_of(context)
                )
                body = self._models.metrics.exposition()
            else:
                raise UnknownRouteError(f"there is no action {action.type!r}: use {', '.join(ACTIONS)}")
            draft.bytes_out = len(body)
            return iter([fl.Result(pa.py_buffer(body))])

    def _change(self, action: Any, context: Any, draft: RecordDraft) -> bytes:
        """Load or unload a model.

        Returns:
            The models afterwards, as JSON.

        Raises:
            ForbiddenError: the admin API is off, or the call's key is not an admin's; without keys, the call comes from
                another machine.
            InputError: the body cannot be used.
        """
        caller = caller_of(context)
        if self._admin.door != "on":
            raise ForbiddenError("the admin API is not here: start the server with --admin on")
        self._gate.enter("admin", caller.authorization, peer=peer_of(context), certificate=certificate_of(context))
        body = action.body.to_pybytes()
        who = {"request_id": draft.id, "client": caller.client, "peer": peer_of(context)}
        if action.type == "unload":
            name = body.decode(errors="replace")
            AdminAction("unload", name, who, self._admin.note).run(lambda: self._models.edit(unloading(name)))
        else:
            spec, names = self._admin.loading(body)
            AdminAction("load", spec.path, who, self._admin.note).run(lambda: self._models.load(spec, names))
        return msgspec.json.encode(self._models.describe())

    def stop(self, drain_seconds: float) -> None:
        """Wait until every batch that was read is answered, end the streams whose clients are silent, and close.

        Args:
            drain_seconds: seconds after which the server closes although batches are not answered.
        """
        deadline = time.monotonic() + drain_seconds
        closing = threading.Thread(target=self.shutdown, name="fletcher-flight-close", daemon=True)
        closing.start()
        while closing.is_alive() and time.monotonic() < deadline and not self._all_idle():
            closing.join(0.05)
        closing.join(0.2)  # gRPC sends what was written last
        if closing.is_alive():
            _disconnect_clients(self._own_name)
            closing.join(max(deadline - time.monotonic(), 1.0))

    def _all_idle(self) -> bool:
        """Return whether every stream has answered what was read."""
        with self._lock:
            return all(exchange.idle for exchange in self._exchanges)

    def _options(self, descriptor: Any) -> ArrowOptions:
        """Return the options of a descriptor.

        Raises:
            UnknownRouteError: the descriptor has another path than `embed`.
            InputError: the options cannot be used.
        """
        if descriptor.descriptor_type == fl.DescriptorType.CMD:
            return read_options(descriptor.command, self._models)
        if list(descriptor.path) != [EMBED]:
            path = [part.decode(errors="replace") for part in descriptor.path]
            raise UnknownRouteError(f'there is no flight with the path {path}: use ["embed"]')
        return ArrowOptions()

    def _info(self, descriptor: Any, options: ArrowOptions) -> Any:
        """Return a descriptor's `FlightInfo`."""
        texts = pa.schema([pa.field(options.column or DEFAULT_COLUMN, pa.string())])
        version = self._models.pick(options.model, ANSWERED_BY[options.output])
        space = version.spaces.of(options.embed, options.output)
        schema = output_schema(texts, version.description, options.embed, space, options.output)
        return fl.FlightInfo(schema, descriptor, [fl.FlightEndpoint(EMBED, self.locations())], -1, -1)

    def locations(self) -> list[str]:
        """Return the addresses at which clients find the answers."""
        return [self.url]

    @contextmanager
    def _call(self, route: str, context: Any) -> Iterator[RecordDraft]:
        """Record and log a call, and translate its error."""
        caller = caller_of(context)
        draft = RecordDraft(
            door="flight", id=request_id(context), client=caller.client or peer_of(context), route=route
        )
        draft.peer = peer_of(context)
        with self._requests.wrap(draft):
            if self._tracing is not None:
                draft.trace = caller.begin_trace(self._tracing, draft.id)
            fields: dict[str, object] = {"request_id": draft.id, "route": route} | trace_fields(draft.trace)
            permit: Permit | None = None
            try:
                permit = admit(context, self._gate, draft)
                yield draft
                draft.status = "ok"
            except FletcherError as error:
                raise _log_and_translate(error, draft, fields) from None
            except (fl.FlightError, pa.ArrowException, OSError) as error:
                logger.info("client left", extra={"fields": fields | {"error": type(error).__name__}})
                raise fl.FlightCancelledError("the client disconnected") from None
            except Exception:
                # A defect in this code. pyarrow would send it to the client with its traceback.
                logger.exception("call failed", extra={"fields": fields})
                internal = FletcherError("internal error")
                draft.error, draft.status = type(internal).__name__, "FlightInternalError"
                raise flight_error(internal) from None
            finally:
                if permit is not None:
                    permit.leave(draft.tokens, draft.bytes_in)


def _log_and_translate(error: FletcherError, draft: RecordDraft, fields: Mapping[str, object]) -> Exception:
    """Log an error and return its translation."""
    translated = flight_error(error)
    draft.error, draft.status = type(error).__name__, type(translated).__name__
    details: dict[str, object] = {"error": draft.error}
    level = logging.INFO
    if isinstance(translated, fl.FlightInternalError):
        level = logging.ERROR
        details["reason"] = str(error)  # only for internal errors: other messages may contain a client's text
    logger.log(level, "call failed", extra={"fields": {**fields, **details}})
    return translated


def _disconnect_clients(own_name: int | str) -> None:
    """End the connections that clients keep open on a port, or a Unix socket, of this process.

    gRPC's `Shutdown` waits for every stream, pyarrow sets no deadline for it, and the server cannot cancel a call. So a
    client with an open stream that sends nothing would keep the process alive.
    """
    for entry in Path("/dev/fd").iterdir():
        try:
            connection = socket.socket(fileno=int(entry.name))
        except OSError:
            continue  # a file, or closed meanwhile
        try:
            name = connection.getsockname()
            if own_name == (name if isinstance(name, str | bytes) else name[1]):
                connection.getpeername()
                connection.shutdown(socket.SHUT_RDWR)
        except (OSError, IndexError):
            continue  # a listening socket, or one of another kind
        finally:
            connection.detach()
