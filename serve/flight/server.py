"""The Flight door: `DoExchange(embed)` and its descriptions, on pyarrow's gRPC server."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.flight as fl

from fletcher import __version__
from fletcher.runtime.errors import ArtifactError, FletcherError, ServiceError

from ..access.addresses import HostPort
from ..access.gate import Gate
from ..arrow.batches import DEFAULT_COLUMN, output_schema, with_vectors
from ..arrow.options import ArrowOptions
from ..errors import FieldError, UnknownRouteError
from ..json_bodies import decode
from ..longbow.door import LongbowDoor
from ..models.changes import loading, unloading
from ..models.registry import Models
from ..models.spec import ModelSpec
from ..observe.logs import trace_fields
from .errors import flight_error
from .exchange import Exchange, wait
from .middleware import (
    KeyFactory,
    RequestIdFactory,
    TermsFactory,
    TraceFactory,
    client_of,
    request_id,
    require_admin,
    terms_of,
    trace_of,
)
from .options import read_options, read_ticket
from .put import flight_put

if TYPE_CHECKING:
    from ..observe.tracing import Tracing

__all__ = ["FlightServer"]

logger = logging.getLogger("fletcher.serve.flight")

EMBED = b"embed"
_spec = msgspec.json.Decoder(ModelSpec)
ACTIONS = {
    "info": "The served model and the server, as JSON",
    "stats": "The metrics, in Prometheus' text format",
    "health": "Whether the process lives and its canary passed, as JSON",
    "load": "Loads or exchanges a model; JSON as of POST /admin/models, for admins",
    "unload": "Unloads a model or NAME@VERSION; the name, for admins",
}


class FlightServer(fl.FlightServerBase):  # type: ignore[misc]
    """The Flight door: open from its construction to `stop`."""

    def __init__(
        self,
        models: Models,
        gate: Gate,
        address: HostPort,
        longbow: LongbowDoor | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """
        Args:
            models: what answers.
            gate: who may ask.
            address: where to listen; port 0 takes a free one.
            longbow: where `DoPut` writes to; None refuses it.
            tracing: where spans go; None makes none.

        Raises:
            ServiceError: gRPC cannot listen there.
        """
        self._models = models
        self._gate = gate
        self._longbow = longbow
        self._exchanges: set[Exchange] = set()
        self._lock = threading.Lock()
        middleware = {"request-id": RequestIdFactory(), "key": KeyFactory(gate), "terms": TermsFactory()}
        if tracing is not None:
            middleware["trace"] = TraceFactory(tracing)
        try:
            super().__init__(f"grpc://{address}", middleware=middleware)
        except (pa.ArrowException, OSError) as error:
            raise ServiceError(f"Flight cannot listen on {address}: {error}") from error
        self.url = f"grpc://{HostPort(address.host, self.port)}"

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Embeds a stream of record batches."""
        with self._call("exchange", context):
            exchange = Exchange(self._models, self._options(descriptor), reader, writer, context)
            with self._lock:
                self._exchanges.add(exchange)
            try:
                exchange.run()
            finally:
                with self._lock:
                    self._exchanges.discard(exchange)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Embeds a stream of record batches and passes them on to Longbow."""
        with self._call("put", context):
            flight_put(self._longbow, self._models, descriptor, reader, writer, request_id(context))

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """What `DoExchange` answers with for this descriptor."""
        with self._call("info", context):
            return self._info(descriptor, self._options(descriptor))

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """The schema of what `DoExchange` answers with."""
        with self._call("schema", context):
            return fl.SchemaResult(self._info(descriptor, self._options(descriptor)).schema)

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Embeds the texts of a ticket: JSON with `texts` and the options of `DoExchange`."""
        with self._call("get", context):
            texts, options = read_ticket(ticket.ticket, self._models)
            terms = terms_of(context)
            version, future = self._models.submit_blocking(
                options.model, lambda engine: engine.submit(texts, options.embed, terms)
            )
            embeddings = wait(future, context, terms.deadline)
            batch = pa.RecordBatch.from_pydict({options.column or DEFAULT_COLUMN: pa.array(texts, pa.string())})
            schema = output_schema(batch.schema, version.served, options.embed)
            made = with_vectors(batch, embeddings, schema)
            return fl.RecordBatchStream(pa.RecordBatchReader.from_batches(schema, [made]), options.ipc)

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """The one descriptor that there is."""
        with self._call("list", context):
            return iter([self._info(fl.FlightDescriptor.for_path(EMBED), ArrowOptions())])

    def list_actions(self, context: Any) -> list[Any]:
        """What `DoAction` answers to."""
        return list(ACTIONS.items())

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        """What `ACTIONS` lists."""
        with self._call("action", context):
            if action.type == "info":
                body = msgspec.json.encode(
                    {"server": "fletcher", "version": __version__, "model": self._models.pick().served}
                )
            elif action.type == "health":
                reason = self._models.not_ready()
                body = msgspec.json.encode({"status": "ok", "ready": not reason, "reason": reason})
            elif action.type in ("load", "unload"):
                body = self._change(action, context)
            elif action.type == "stats":
                body = self._models.metrics.exposition()
            else:
                raise UnknownRouteError(f"there is no action {action.type!r}; there are {', '.join(ACTIONS)}")
            return iter([fl.Result(pa.py_buffer(body))])

    def _change(self, action: Any, context: Any) -> bytes:
        require_admin(self._gate, context)
        said = action.body.to_pybytes()
        fields = {"request_id": request_id(context), "client": client_of(context), "change": action.type}
        logger.info("admin", extra={"fields": fields})
        try:
            if action.type == "unload":
                self._models.edit(unloading(said.decode(errors="replace")))
            else:
                spec = decode(_spec, said).named()
                names = {"name", *msgspec.json.decode(said)}
                self._models.edit(loading(spec, names), reload=frozenset([spec.key]))
        except ArtifactError as error:  # the operator's to read, and to mend
            raise FieldError(str(error), "path") from error
        return msgspec.json.encode(self._models.describe())

    def stop(self, drain_seconds: float) -> None:
        """Waits until what was read is answered, ends the streams whose clients say nothing, and closes.

        Args:
            drain_seconds: how long that may take.
        """
        deadline = time.monotonic() + drain_seconds
        closing = threading.Thread(target=self.shutdown, name="fletcher-flight-close", daemon=True)
        closing.start()
        while closing.is_alive() and time.monotonic() < deadline and not self._all_idle():
            closing.join(0.05)
        closing.join(0.2)  # gRPC sends what was written last
        if closing.is_alive():
            _hang_up(self.port)
            closing.join(max(deadline - time.monotonic(), 1.0))

    def _all_idle(self) -> bool:
        with self._lock:
            return all(exchange.idle for exchange in self._exchanges)

    def _options(self, descriptor: Any) -> ArrowOptions:
        if descriptor.descriptor_type == fl.DescriptorType.CMD:
            return read_options(descriptor.command, self._models)
        if list(descriptor.path) != [EMBED]:
            path = [part.decode(errors="replace") for part in descriptor.path]
            raise UnknownRouteError(f'there is nothing at the path {path}; there is ["embed"]')
        return ArrowOptions()

    def _info(self, descriptor: Any, options: ArrowOptions) -> Any:
        texts = pa.schema([pa.field(options.column or DEFAULT_COLUMN, pa.string())])
        schema = output_schema(texts, self._models.pick(options.model).served, options.embed)
        return fl.FlightInfo(schema, descriptor, [fl.FlightEndpoint(EMBED, [self.url])], -1, -1)

    @contextmanager
    def _call(self, route: str, context: Any) -> Iterator[None]:
        """Counts and logs a call, and translates its error, once."""
        started = time.perf_counter()
        trace = trace_of(context)
        fields: dict[str, object] = {"request_id": request_id(context), "route": route} | trace_fields(trace)
        if trace is not None:
            trace.span.set_attribute("fletcher.request_id", request_id(context))
        status = "ok"
        try:
            yield
        except FletcherError as error:
            if trace is not None:
                trace.fail(type(error).__name__)
            translated = flight_error(error)
            status = type(translated).__name__
            self._models.metrics.failed(error)
            level = logging.ERROR if isinstance(translated, fl.FlightInternalError) else logging.INFO
            said: dict[str, object] = {"error": type(error).__name__}
            if level == logging.ERROR:  # of a refusal the words may hold what the client wrote
                said["reason"] = str(error)
            logger.log(level, "call failed", extra={"fields": fields | said})
            raise translated from None
        except (fl.FlightError, pa.ArrowException, OSError) as error:
            status = "left"
            logger.info("client left", extra={"fields": fields | {"error": type(error).__name__}})
            raise fl.FlightCancelledError("the client left") from None
        except Exception:
            # The last resort: a defect of ours, which pyarrow would send to the client with its traceback.
            status = "FlightInternalError"
            logger.exception("call failed", extra={"fields": fields})
            raise flight_error(FletcherError("internal error")) from None
        finally:
            seconds = time.perf_counter() - started
            self._models.metrics.answered("flight", route, status, seconds)
            if logger.isEnabledFor(logging.DEBUG):
                said = {"status": status, "milliseconds": round(seconds * 1000, 3)}
                logger.debug("call", extra={"fields": fields | said})


def _hang_up(port: int) -> None:
    """Ends the connections that clients keep open on a port of this process.

    gRPC's `Shutdown` waits for every stream, and pyarrow gives it no deadline and a call no way to be cancelled, so a client
    that holds a stream open and says nothing would keep the process alive.
    """
    for entry in Path("/dev/fd").iterdir():
        try:
            connection = socket.socket(fileno=int(entry.name))
        except OSError:
            continue  # a file, or closed since
        try:
            if connection.getsockname()[1] == port and connection.getpeername():
                connection.shutdown(socket.SHUT_RDWR)
        except (OSError, IndexError):
            continue  # a listening or a local socket
        finally:
            connection.detach()
