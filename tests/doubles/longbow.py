"""Double of the Longbow vector database on pyarrow.flight, with its silent losses of rows and its other defects.

It follows the source of github 23skdu/longbow (`internal/store`: do_exchange.go, store_actions.go, store_query.go,
servers.go). `test_protocol` runs against the double and against a server built from that source. The double behaves like
the server:

- DoPut collects up to 50,000 rows or 32 MiB, so its errors come late. It sends at most one PutResult, at the start of a
  stream.
- DoExchange `["ingest", dataset]` acknowledges each batch with a number that starts at 1 in each stream. It does not
  compare the schema with that of the dataset: vectors of another length are stored and acknowledged, but never indexed.
- A repeated id keeps both rows. `delete` takes the id as a string, and marks only the last row with this id. Rows are not
  overwritten. Marked rows stay in the index: `index_len` counts them, and searches find them.
- DoGet by name leaves out marked rows. If a batch has only marked rows, DoGet fails, and the whole server ends if there are
  other batches. With a condition, DoGet returns marked rows too. A name alone as a ticket uses the conditions of an earlier
  ticket.
- A batch is acknowledged before it can be read, deleted or found.
- A dataset exists as soon as a stream to it is open. DoGet then fails, because there are not even columns.
- After a restart, `delete` does not know earlier rows.
- Above 90 % of the memory limit, writers block without an error. Above the limit, rows are dropped after OK. The metrics
  `longbow_memory_…` are 0; only the share of the heap is correct.
- Only the column `vector` of float32 lists is indexed. For other columns and float16 vectors, only the first row is
  indexed. `READY` does not show this.
- Search is always Euclidean. Answers of DoGet are cached for 60 s. Returned ids are truncated to 32 bits.
- The data port has no ListFlights and no GetFlightInfo; the meta port has no DoPut and no DoExchange.

The double has no durability, eviction, sharding, mesh or full-text search.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as fl

OPERATORS = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
GATHER_ROWS = 50_000
GATHER_BYTES = 32 * 2**20
CACHE_SECONDS = 60.0
#: Share of the memory limit above which writers block.
BLOCKING = 0.9


@dataclass
class Faults:
    """`Faults`: faults of the server, which last until a test resets them.

    Attributes:
        refuse: whether every call fails with Unavailable.
        hang: whether every call waits without an answer.
        drop_rows: number of rows that are dropped after OK.
        fail_batches: number of next batches that fail with Internal after they were read.
        lose_acks: number of next batches that are stored, but whose stream ends before the acknowledgement.
        late_seconds: seconds between the end of such a stream and the storage of its batch; the batch is not visible before.
        slow_down: whether streams start with a PutResult that asks the client to send more slowly.
        ack_seconds: seconds until an acknowledgement.
        busy: whether `check_readiness` returns BUSY.
        lose_index: number of rows that are stored but never indexed; READY does not show this.
        apply_seconds: seconds between the acknowledgement of a batch and the time when it can be read, deleted and found.
    """

    refuse: bool = False
    hang: bool = False
    drop_rows: int = 0
    fail_batches: int = 0
    lose_acks: int = 0
    late_seconds: float = 0.0
    slow_down: bool = False
    ack_seconds: float = 0.0
    busy: bool = False
    lose_index: int = 0
    apply_seconds: float = 0.0


@dataclass
class Dataset:
    """`Dataset`: rows in the order of their arrival, and the rows that are marked as deleted.

    Attributes:
        schema: schema of the first stream.
        batches: batches that can be read.
        deleted: marked rows, as (batch, row).
        last: last row of each id, as (batch, row).
        rows: number of rows.
        indexed: number of indexed rows.
        pending: acknowledged batches that cannot be read yet, each with its time.
    """

    schema: pa.Schema
    batches: list[pa.RecordBatch] = field(default_factory=list)
    deleted: set[tuple[int, int]] = field(default_factory=set)
    last: dict[int, tuple[int, int]] = field(default_factory=dict)
    rows: int = 0
    indexed: int = 0
    pending: list[tuple[float, pa.RecordBatch]] = field(default_factory=list)


class Store:
    """`Store`: state behind both ports."""

    def __init__(self, *, max_memory: int = 1 << 30, keep: bool = True) -> None:
        """Start without datasets.

        Args:
            max_memory: memory limit in bytes, like LONGBOW_MAX_MEMORY.
            keep: whether rows are stored. If not, they are only counted, for measurements of senders.
        """
        self.max_memory = max_memory
        self.keep = keep
        self.token: str | None = None
        self.faults = Faults()
        self.datasets: dict[str, Dataset] = {}
        self.memory = 0
        self.dropped = 0
        self.searches: dict[bytes, tuple[float, pa.RecordBatch]] = {}
        self.left_conditions: list[dict[str, str]] = []
        self.ended = False
        self.peers: set[str] = set()
        self.calls: list[str] = []
        self.headers: list[dict[str, list[str]]] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def enter(self, call: str) -> None:
        """Record a call, and apply the faults of all calls."""
        self.calls.append(call)
        if self.ended:
            raise fl.FlightUnavailableError("failed to connect to all addresses")
        while self.faults.hang and not self.closing.is_set():
            time.sleep(0.01)
        if self.faults.refuse:
            raise fl.FlightUnavailableError("the server is shutting down")

    def get(self, name: str) -> Dataset:
        """Return a dataset, after its pending batches whose time has come were applied."""
        if name not in self.datasets:
            raise pa.ArrowKeyError(f"dataset {name} not found")
        dataset = self.datasets[name]
        with self.lock:
            while dataset.pending and dataset.pending[0][0] <= time.monotonic():
                self._apply(dataset, dataset.pending.pop(0)[1])
        return dataset

    def restart(self) -> None:
        """Restart with the rows on the disk, but without the marks and the table of ids."""
        for dataset in self.datasets.values():
            dataset.last.clear()
            dataset.deleted.clear()

    def join(self, name: str, schema: pa.Schema) -> Dataset:
        """Return a dataset, which is created at its first use."""
        with self.lock:
            return self.datasets.setdefault(name, Dataset(schema))

    def open(self, name: str, schema: pa.Schema) -> Dataset:
        """Return a dataset, which is created at its first use; reject a schema with other types of its columns."""
        dataset = self.join(name, schema)
        types = {column.name: column.type for column in dataset.schema}
        for column in schema:
            if column.name in types and types[column.name] != column.type:
                raise pa.ArrowInvalid(
                    f'schema mismatch: type mismatch for column "{column.name}": existing={types[column.name]}, '
                    f"new={column.type}"
                )
        return dataset

    def append(self, dataset: Dataset, batch: pa.RecordBatch, context: Any = None) -> None:
        """Store and index a batch, or lose it without an error."""
        while self.memory > BLOCKING * self.max_memory and not self.closing.is_set():
            if context is not None and context.is_cancelled():
                raise fl.FlightCancelledError("context canceled")
            time.sleep(0.01)
        if self.faults.drop_rows:
            lost = min(self.faults.drop_rows, batch.num_rows)
            self.faults.drop_rows -= lost
            self.dropped += lost
            batch = batch.slice(lost)
        if self.memory + batch.nbytes > self.max_memory:  # the server only logs this
            self.dropped += batch.num_rows
            return
        with self.lock:
            if not self.keep:
                dataset.rows += batch.num_rows
                dataset.indexed += batch.num_rows
                return
            self.memory += batch.nbytes
            if self.faults.apply_seconds or dataset.pending:
                dataset.pending.append((time.monotonic() + self.faults.apply_seconds, batch))
            else:
                self._apply(dataset, batch)

    def _apply(self, dataset: Dataset, batch: pa.RecordBatch) -> None:
        number = len(dataset.batches)
        dataset.batches.append(batch)
        dataset.rows += batch.num_rows
        if "id" in batch.schema.names:
            for row, value in enumerate(batch.column("id").to_pylist()):
                dataset.last[value] = (number, row)
        dataset.indexed += self._indexed(dataset, batch)

    def _indexed(self, dataset: Dataset, batch: pa.RecordBatch) -> int:
        """Return the number of rows of a batch that are indexed."""
        first = int(dataset.indexed == 0 and batch.num_rows > 0)
        if "vector" not in batch.schema.names or not pa.types.is_fixed_size_list(batch.schema.field("vector").type):
            return first
        if batch.schema.field("vector").type.value_type != pa.float32():
            return first
        if dataset.schema.field("vector").type.list_size != batch.schema.field("vector").type.list_size:
            return 0
        lost = min(self.faults.lose_index, batch.num_rows)
        self.faults.lose_index -= lost
        return int(batch.num_rows - lost)

    def live(self, name: str) -> pa.Table:
        """Return the rows of a dataset without the marked ones."""
        dataset = self.get(name)
        with self.lock:
            parts = []
            for number, batch in enumerate(dataset.batches):
                deleted = [row for at, row in dataset.deleted if at == number]
                if deleted:
                    batch = batch.filter(pa.array(~np.isin(np.arange(batch.num_rows), deleted)))
                parts.append(batch)
            return pa.Table.from_batches(parts, dataset.schema)

    def ids(self, name: str) -> list[int]:
        """Return the ids of the rows without marks, in ascending order, with repetitions."""
        if name not in self.datasets:
            return []
        return sorted(self.live(name).column("id").to_pylist())

    def by_name(self, name: str) -> pa.Table:
        """Return the rows of DoGet without a condition."""
        dataset = self.get(name)
        for number, batch in enumerate(dataset.batches):
            if sum(at == number for at, _ in dataset.deleted) == batch.num_rows:
                if len(dataset.batches) == 1:
                    raise fl.FlightInternalError("arrow/ipc: unknown error while writing: index out of range [0]")
                self.ended = True  # Go's panic: number of columns/fields mismatch
                raise fl.FlightUnavailableError("Stream removed (Socket closed)")
        return self.live(name)

    def cached_search(self, name: str, vector: list[float], k: int) -> pa.RecordBatch:
        """Return the rows of a search by DoGet, whose answers are cached."""
        key = json.dumps([name, vector, k]).encode()
        answer = self.searches.get(key)
        if answer is None or time.monotonic() - answer[0] > CACHE_SECONDS:
            answer = self.searches[key] = (time.monotonic(), self.search(name, vector, k))
        return answer[1]

    def search(self, name: str, vector: list[float], k: int) -> pa.RecordBatch:
        """Return the ids and scores of the `k` nearest rows."""
        dataset = self.get(name)
        size = dataset.schema.field("vector").type.list_size
        if len(vector) != size:
            raise pa.ArrowInvalid(f"dimension mismatch: expected {size}, got {len(vector)}")
        batches = [batch for batch in dataset.batches if batch.schema.field("vector").type.list_size == size]
        table = pa.Table.from_batches(batches, dataset.schema).combine_chunks()
        column = pc.list_flatten(table.column("vector")).to_numpy()
        distances = np.linalg.norm(column.reshape(-1, size) - np.array(vector, np.float32), axis=1)
        order = np.argsort(distances, kind="stable")[:k]
        ids = table.column("id").to_numpy()[order].astype(np.uint32).astype(np.uint64)
        scores = (1 / (1 + distances[order])).astype(np.float32)
        return pa.record_batch({"id": pa.array(ids, pa.uint64()), "score": pa.array(scores, pa.float32())})


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


class _Headers(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """`_Headers`: middleware that records the headers of calls and checks the token, like a proxy in front of the server."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> None:
        self._store.headers.append(dict(headers))
        token = self._store.token
        if token is not None and headers.get("authorization") != [f"Bearer {token}"]:
            raise fl.FlightUnauthenticatedError("the proxy needs a token")


class _Port(fl.FlightServerBase):  # type: ignore[misc]
    """`_Port`: calls that both ports answer."""

    def __init__(self, store: Store, location: str = "grpc://127.0.0.1:0", **options: Any) -> None:
        super().__init__(location, middleware={"headers": _Headers(store)}, **options)
        self.store = store

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        self.store.enter(action.type)
        body = json.loads(action.body.to_pybytes() or b"{}")
        return iter([fl.Result(pa.py_buffer(self._answer(action.type, body)))])

    def _answer(self, kind: str, body: dict[str, Any]) -> bytes:
        store = self.store
        if kind == "check_readiness":
            name = body.get("dataset")
            if store.faults.busy:
                return json.dumps({"status": "BUSY", "reason": "global index queue has 3 jobs"}).encode()
            if not name:
                return b'{"status":"READY"}'
            if name not in store.datasets:
                return b'{"status":"NOT_FOUND","reason":"dataset not found"}'
            dataset = store.get(name)
            answer = {"status": "READY", "index_len": dataset.indexed}
            if dataset.pending:
                reason = f"dataset has 0 pending index jobs, {len(dataset.pending)} pending ingestion jobs"
                answer |= {"status": "BUSY", "reason": reason}
            return json.dumps(answer).encode()
        if kind == "VectorSearch":
            return _ipc(store.search(body["dataset"], body["vector"], body["k"]))
        if kind == "delete":
            if not isinstance(body["id"], str):  # Go's decoder: cannot unmarshal number into a string
                raise pa.ArrowInvalid("invalid json body: json: cannot unmarshal number into Go struct field .id")
            dataset = store.get(body["dataset"])
            with store.lock:
                place = dataset.last.get(int(body["id"]))
                if place is None:
                    raise pa.ArrowKeyError(f"id {body['id']} not found in dataset {body['dataset']}")
                dataset.deleted.add(place)
            return b"deleted"
        if kind == "delete-dataset":
            store.get(body["dataset"])
            with store.lock:
                removed = store.datasets.pop(body["dataset"])
                store.memory -= sum(batch.nbytes for batch in removed.batches)
            return b"deleted"
        raise NotImplementedError(f"unknown action type {kind}")

    def do_get(self, context: Any, ticket: Any) -> Any:
        self.store.enter("DoGet")
        text = ticket.ticket.decode()
        if text.startswith("{"):
            query = json.loads(text)
            self.store.left_conditions = query.get("filters") or []
        else:
            query = {"name": text, "filters": self.store.left_conditions}
        if search := query.get("search"):
            rows = self.store.cached_search(search["dataset"], search["vector"], search["k"])
            return fl.RecordBatchStream(pa.Table.from_batches([rows]))
        dataset = self.store.get(query["name"])
        if not dataset.batches:
            raise fl.FlightInternalError("Server never sent a data message")
        filters = query.get("filters") or []
        if not filters:
            return fl.RecordBatchStream(self.store.by_name(query["name"]))
        # A filter sees marked rows too. Each worker answers with one batch, in any order.
        batches = [batch for batch in dataset.batches if batch.schema.equals(dataset.schema)]
        table = pa.Table.from_batches(batches[::-1], dataset.schema)
        bound = [one for one in filters if table.schema.field(one["field"]).type in (pa.int64(), pa.string())]
        if not bound:
            table = table.slice(0, 0)  # the server only logs "failed to bind any filters"
        for one in bound:
            column = table.column(one["field"])
            compare = OPERATORS[one["operator"]]
            table = table.filter(compare(column, pa.scalar(one["value"]).cast(column.type)))
        return fl.RecordBatchStream(table)


class DataPort(_Port):
    """`DataPort`: port 3000 of the server."""

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self.store.enter("DoPut")
        if self.store.faults.slow_down:
            writer.write(pa.py_buffer(b'{"status": "slow_down", "reason": "wal_pressure"}'))
        if not descriptor.path:
            raise fl.FlightInternalError("missing flight descriptor path")
        dataset = self.store.open(descriptor.path[0].decode(), reader.schema)
        gathered: list[pa.RecordBatch] = []
        for chunk in reader:
            gathered.append(chunk.data)
            rows = sum(batch.num_rows for batch in gathered)
            if rows >= GATHER_ROWS or sum(batch.nbytes for batch in gathered) >= GATHER_BYTES:
                self._flush(dataset, gathered, context)
        self._flush(dataset, gathered, context)

    def _flush(self, dataset: Dataset, gathered: list[pa.RecordBatch], context: Any) -> None:
        if self.store.faults.fail_batches and gathered:
            self.store.faults.fail_batches -= 1
            raise fl.FlightInternalError("flush failed: WAL write failed")
        for batch in gathered:
            self.store.append(dataset, batch, context)
        gathered.clear()

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self.store.enter("DoExchange")
        self.store.peers.add(context.peer())
        path = [part.decode() for part in descriptor.path or []]
        if path[:1] != ["ingest"] or len(path) < 2:
            raise pa.ArrowInvalid("DoExchange ingest requires dataset name in path")
        dataset = self.store.join(path[1], reader.schema)
        faults = self.store.faults
        number = 0
        for chunk in reader:
            if chunk.data is None:
                continue
            if faults.fail_batches:
                faults.fail_batches -= 1
                raise fl.FlightInternalError("flush failed: WAL write failed")
            if faults.lose_acks and faults.late_seconds:
                threading.Timer(faults.late_seconds, self.store.append, [dataset, chunk.data]).start()
            else:
                self.store.append(dataset, chunk.data, context)
            if faults.lose_acks:
                faults.lose_acks -= 1
                raise fl.FlightUnavailableError("connection reset by peer")
            if faults.ack_seconds:
                time.sleep(faults.ack_seconds)
            number += 1
            ack = {"status": "acked", "batch_id": number, "rows": chunk.data.num_rows}
            writer.write_metadata(pa.py_buffer(json.dumps(ack).encode()))

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        raise NotImplementedError("ListFlights not implemented on DataServer; use MetaServer")

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        raise NotImplementedError("GetFlightInfo not implemented on DataServer; use MetaServer")


class MetaPort(_Port):
    """`MetaPort`: port 3001 of the server."""

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        self.store.enter("ListFlights")
        return iter([self._info(name) for name in self.store.datasets])

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        self.store.enter("GetFlightInfo")
        return self._info(descriptor.path[0].decode())

    def _info(self, name: str) -> Any:
        dataset = self.store.get(name)
        descriptor = fl.FlightDescriptor.for_path(name)
        # `total_records` of the server is the number of batches.
        return fl.FlightInfo(dataset.schema, descriptor, [fl.FlightEndpoint(name, [])], len(dataset.batches), -1)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        raise NotImplementedError("DoPut not implemented on MetaServer; use DataServer")

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        raise NotImplementedError("DoExchange not implemented")


class LongbowDouble:
    """`LongbowDouble`: data port, meta port and metrics on free ports of the loopback interface; a context manager.

    Attributes:
        store: stored data, and faults.
        port: number of the data port.
        url: URL of the data port.
        meta_url: URL of the meta port.
        metrics_url: URL of the Prometheus page.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        max_memory: int = 1 << 30,
        keep: bool = True,
        certificate: tuple[bytes, bytes] | None = None,
        token: str | None = None,
    ) -> None:
        """Start the servers.

        Args:
            port: number of the data port; 0 takes a free port.
            max_memory, keep: see `Store`.
            certificate: certificate chain and key of a proxy in front of the data port, in PEM format.
            token: token that such a proxy requires.
        """
        self.store = Store(max_memory=max_memory, keep=keep)
        self.store.token = token
        scheme = "grpc" if certificate is None else "grpc+tls"
        options = {} if certificate is None else {"tls_certificates": [certificate]}
        self._data = DataPort(self.store, f"{scheme}://127.0.0.1:{port}", **options)
        self._meta = MetaPort(self.store)
        self._metrics = ThreadingHTTPServer(("127.0.0.1", 0), _page(self.store))
        self._thread = threading.Thread(target=self._metrics.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.port = self._data.port
        self.url = f"{scheme}://127.0.0.1:{self._data.port}"
        self.meta_url = f"grpc://127.0.0.1:{self._meta.port}"
        self.metrics_url = f"http://127.0.0.1:{self._metrics.server_port}/metrics"

    def close(self) -> None:
        """End calls that hang, and close the ports."""
        self.store.closing.set()
        self._metrics.shutdown()
        self._metrics.server_close()
        self._data.shutdown()
        self._meta.shutdown()

    def __enter__(self) -> LongbowDouble:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _page(store: Store) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = [
                "# TYPE longbow_memory_current_bytes gauge",
                "longbow_memory_current_bytes 0",
                "longbow_memory_limit_bytes 0",
                f"longbow_gc_tuner_heap_utilization {store.memory / store.max_memory}",
                "longbow_ingestion_lag_count 0",
                "longbow_index_queue_depth 0",
                'longbow_flight_operations_total{method="do_get",status="success"} 3',
                "",
            ]
            body = "\n".join(lines).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Page


def main() -> None:
    """Run a double in this process: print its three URLs as JSON, and end at the end of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count-only", action="store_true")
    parser.add_argument("--max-memory", type=int, default=8 << 30)
    options = parser.parse_args()
    with LongbowDouble(keep=not options.count_only, max_memory=options.max_memory) as double:
        sys.stdout.write(json.dumps([double.url, double.meta_url, double.metrics_url]) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
