"""Longbow's protocol: the same tests run against the double, or against a real server if the variables name one.

    FLETCHER_LONGBOW=grpc://host:3000 FLETCHER_LONGBOW_META=grpc://host:3001 pytest tests/serve/longbow/test_protocol.py

Tests of faults and of a memory of a few bytes always use the double. They are at the end of this file.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
import trustme

from fletcher.runtime.errors import DeadlineError, InputError, ServiceError
from fletcher.serve.longbow.wire.connection import Condition, Connection, Readiness
from fletcher.serve.longbow.wire.presence import all_placed, arrived, metadata_head, wait_until_quiet
from fletcher.serve.longbow.wire.schema import check_schema, longbow_schema, make_batch
from fletcher.serve.longbow.wire.target import Target

from ...doubles.longbow import LongbowDouble

SIZE = 8


@dataclass(frozen=True)
class Place:
    """`Place`: a server, and the name of a dataset that only one test uses."""

    url: str
    meta_url: str
    dataset: str


@pytest.fixture
def place(longbow: LongbowDouble, longbow_url: str) -> Iterator[Place]:
    url = longbow_url
    meta = os.environ.get("FLETCHER_LONGBOW_META", longbow.meta_url)
    place = Place(url, meta, f"fletcher-test-{uuid.uuid4().hex[:8]}")
    yield place
    with Connection(Target(url)) as connection:
        connection.delete_dataset(place.dataset)


@pytest.fixture
def connection(place: Place) -> Iterator[Connection]:
    with Connection(Target(place.url, timeout=10.0)) as connection:
        yield connection


def rows(ids: list[int], size: int = SIZE, mark: str = "none") -> Any:
    """Return a batch of rows. The vector of id n is the unit vector of axis n."""
    vectors = np.stack([np.eye(size, dtype=np.float32)[number % size] for number in ids])
    texts = [f"text {number}" for number in ids]
    metadata = [metadata_head(mark, {}) + "}"] * len(ids)
    return make_batch(longbow_schema(size, with_text=True), np.array(ids, np.int64), vectors, texts, metadata)


def get(connection: Connection, ticket: str | dict[str, Any]) -> list[int]:
    """Return the ids of the rows that DoGet returns, sorted."""
    text = ticket if isinstance(ticket, str) else json.dumps(ticket)
    table = connection.client.do_get(fl.Ticket(text.encode()), connection.options()).read_all()
    return sorted(table.column("id").to_pylist())


def put(connection: Connection, dataset: str, *batches: Any) -> list[dict[str, Any]]:
    """Send batches by DoExchange, and return their acknowledgments."""
    writer, reader = connection.client.do_exchange(
        fl.FlightDescriptor.for_path("ingest", dataset), connection.options()
    )
    writer.begin(batches[0].schema)
    acks = []
    for batch in batches:
        writer.write_batch(batch)
        acks.append(json.loads(reader.read_chunk().app_metadata.to_pybytes()))
    writer.done_writing()
    writer.close()
    return acks


def indexed(connection: Connection, dataset: str, least: int) -> int:
    """Wait until `index_len` is at least `least`, for 10 s at most, and return it."""
    deadline = time.monotonic() + 10
    while True:
        state = connection.readiness(dataset)
        if (state.status == "READY" and state.index_len >= least) or time.monotonic() > deadline:
            return state.index_len
        time.sleep(0.05)


def test_every_batch_is_acknowledged_with_its_number_and_rows(place: Place, connection: Connection) -> None:
    acks = put(connection, place.dataset, rows([1, 2, 3]), rows([4]))
    assert acks == [
        {"status": "acked", "batch_id": 1, "rows": 3},
        {"status": "acked", "batch_id": 2, "rows": 1},
    ]
    assert indexed(connection, place.dataset, 4) == 4


def test_a_repeated_id_leaves_both_rows_and_a_deleted_one_stays_in_the_index(
    place: Place, connection: Connection
) -> None:
    put(connection, place.dataset, rows([5, 6]), rows([5]))
    assert indexed(connection, place.dataset, 3) == 3
    assert sorted(connection.ids(place.dataset).tolist()) == [5, 5, 6]
    assert connection.delete(place.dataset, 6)
    assert connection.delete(place.dataset, 6)  # the same row again
    assert not connection.delete(place.dataset, 99)
    assert connection.readiness(place.dataset).index_len == 3
    assert connection.search(place.dataset, np.eye(SIZE, dtype=np.float32)[6], 1)[0].id == 6
    assert sorted(connection.ids(place.dataset).tolist()) == [
        5,
        5,
        6,
    ]  # this query has a condition; the next one does not
    assert get(connection, {"name": place.dataset}) == [5, 5]


def test_a_query_by_name_can_get_the_conditions_of_an_earlier_query(place: Place, connection: Connection) -> None:
    put(connection, place.dataset, rows([1, 2, 3]))
    indexed(connection, place.dataset, 3)
    for _ in range(64):  # Longbow has a pool of parsers, one for each processor
        get(connection, {"name": place.dataset, "filters": [{"field": "id", "operator": "=", "value": "2"}]})
    assert get(connection, place.dataset) == [2]
    assert get(connection, {"name": place.dataset}) == [1, 2, 3]


def test_rows_of_a_batch_are_found_by_its_mark(place: Place, connection: Connection) -> None:
    put(connection, place.dataset, rows([1, 2], mark="ab-1"), rows([3], mark="ab-12"), rows([4], mark="abc-1"))
    indexed(connection, place.dataset, 4)
    assert sorted(arrived(connection, place.dataset, "ab-1").tolist()) == [1, 2]
    assert arrived(connection, place.dataset, "ab-12").tolist() == [3]
    assert arrived(connection, place.dataset, "ab-2").tolist() == []
    assert sorted(all_placed(connection, place.dataset, "ab").tolist()) == [1 << 32 | 1, 2 << 32 | 1, 3 << 32 | 12]
    assert arrived(connection, place.dataset + "-none", "ab-1").tolist() == []
    for row in (1, 2):
        connection.delete(
            place.dataset, row
        )  # all rows of the batch: a query without a condition would now crash the server
    assert sorted(arrived(connection, place.dataset, "ab-1").tolist()) == [1, 2]
    assert connection.schema(place.dataset).field("vector").type.list_size == SIZE


def test_all_rows_of_many_batches_are_read(place: Place, connection: Connection) -> None:
    batches = [rows(list(range(start, start + 7))) for start in range(0, 700, 7)]
    put(connection, place.dataset, *batches)
    indexed(connection, place.dataset, 700)
    assert sorted(connection.ids(place.dataset).tolist()) == list(range(700))


def test_a_dataset_exists_before_its_first_row(place: Place, connection: Connection) -> None:
    writer, reader = connection.client.do_exchange(
        fl.FlightDescriptor.for_path("ingest", place.dataset), connection.options()
    )
    writer.begin(longbow_schema(SIZE, with_text=True))
    writer.done_writing()
    with pytest.raises(StopIteration):
        reader.read_chunk()
    writer.close()
    assert connection.readiness(place.dataset) == Readiness("READY", "", 0)
    assert connection.schema(place.dataset) is None
    assert connection.ids(place.dataset).tolist() == []
    assert connection.search(place.dataset, np.ones(SIZE, np.float32), 1) == []


def test_doget_caches_its_searches_and_the_action_does_not(place: Place, connection: Connection) -> None:
    axis = np.eye(SIZE, dtype=np.float32)[1]
    question = {"search": {"dataset": place.dataset, "vector": axis.tolist(), "k": 1}}
    put(connection, place.dataset, rows([0]))
    indexed(connection, place.dataset, 1)
    assert (get(connection, question), connection.search(place.dataset, axis, 1)[0].id) == ([0], 0)
    put(connection, place.dataset, rows([1]))
    indexed(connection, place.dataset, 2)
    assert (get(connection, question), connection.search(place.dataset, axis, 1)[0].id) == ([0], 1)


def test_columns_that_are_not_vectors_count_as_one_indexed_row(place: Place, connection: Connection) -> None:
    half = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(SIZE * 3, np.float16)), SIZE)
    single = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(SIZE * 3, np.float32)), SIZE)
    ids = pa.array([1, 2, 3])
    for name, columns in (("half", {"vector": half}), ("named", {"embedding": single}), ("none", {})):
        dataset = f"{place.dataset}-{name}"
        put(connection, dataset, pa.record_batch({"id": ids, **columns}))
        assert indexed(connection, dataset, 1) == 1
        assert connection.readiness(dataset).status == "READY"
        connection.delete_dataset(dataset)


def test_search_returns_the_nearest_first(place: Place, connection: Connection) -> None:
    put(connection, place.dataset, rows([0, 1, 2, 3]))
    indexed(connection, place.dataset, 4)
    hits = connection.search(place.dataset, np.eye(SIZE, dtype=np.float32)[2], 2)
    assert hits[0].id == 2
    assert hits[0].score > hits[1].score
    where = [Condition("id", "=", "2")]
    texts = [batch.to_pylist() for batch in connection.rows(place.dataset, where, ["text"])]
    assert texts == [[{"text": "text 2"}]]
    with pytest.raises(InputError, match="dimension mismatch"):
        connection.search(place.dataset, np.ones(4, np.float32), 2)


def test_a_missing_dataset(place: Place, connection: Connection) -> None:
    assert connection.readiness(place.dataset).status == "NOT_FOUND"
    with pytest.raises(InputError, match="has no dataset"):
        connection.search(place.dataset, np.ones(SIZE, np.float32), 1)
    assert not connection.delete(place.dataset, 1)
    assert not connection.delete_dataset(place.dataset)


def test_put_collects_and_stores_batches(place: Place, connection: Connection) -> None:
    batch = rows([1, 2])
    writer, _ = connection.client.do_put(
        fl.FlightDescriptor.for_path(place.dataset), batch.schema, connection.options()
    )
    writer.write_batch(batch)
    writer.close()
    assert indexed(connection, place.dataset, 2) == 2


def test_put_rejects_a_changed_length(place: Place, connection: Connection) -> None:
    put(connection, place.dataset, rows([1]))
    other = rows([1], size=4)
    writer, _ = connection.client.do_put(
        fl.FlightDescriptor.for_path(place.dataset), other.schema, connection.options()
    )
    with pytest.raises(pa.ArrowInvalid, match="mismatch"):
        writer.write_batch(other)
        writer.close()


def test_the_meta_port_lists_and_the_data_port_does_not(place: Place, connection: Connection) -> None:
    put(connection, place.dataset, rows([1]), rows([2, 3]))
    indexed(connection, place.dataset, 3)
    with fl.connect(place.meta_url) as meta:
        assert place.dataset in {flight.descriptor.path[0].decode() for flight in meta.list_flights()}
    with pytest.raises((pa.ArrowNotImplementedError, fl.FlightError)):
        list(connection.client.list_flights())


# Only with the double -------------------------------------------------------------------------------------------------


def test_a_query_by_name_for_a_batch_without_remaining_rows_ends_the_server(longbow: LongbowDouble) -> None:
    with Connection(Target(longbow.url)) as connection:
        put(connection, "d", rows([1]))
        connection.delete("d", 1)
        with pytest.raises(fl.FlightInternalError, match="index out of range"):
            get(connection, {"name": "d"})
        put(connection, "d", rows([2]))
        with pytest.raises(fl.FlightUnavailableError, match="Socket closed"):
            get(connection, {"name": "d"})
        with pytest.raises(ServiceError, match="failed to connect"):
            connection.readiness("d")


def test_a_restart_forgets_ids_and_deletions(longbow: LongbowDouble) -> None:
    with Connection(Target(longbow.url)) as connection:
        put(connection, "d", rows([1, 2], mark="a-1"))
        connection.delete("d", 1)
        longbow.store.restart()
        assert not connection.delete("d", 2)
        assert longbow.store.ids("d") == [1, 2]
        assert sorted(arrived(connection, "d", "a-1").tolist()) == [1, 2]


def test_a_batch_is_acknowledged_before_it_is_readable(longbow: LongbowDouble) -> None:
    longbow.store.faults.apply_seconds = 0.3
    with Connection(Target(longbow.url)) as connection:
        put(connection, "d", rows([1, 2], mark="a-1"))
        assert connection.readiness("d").status == "BUSY"
        assert not connection.delete("d", 1)
        assert arrived(connection, "d", "a-1").tolist() == []
        assert wait_until_quiet(connection, "d", 5.0) == 2
        assert sorted(arrived(connection, "d", "a-1").tolist()) == [1, 2]


def test_errors_of_put_come_late_and_memory_pressure_is_reported_once(longbow: LongbowDouble) -> None:
    longbow.store.faults.slow_down = True
    longbow.store.faults.fail_batches = 1
    batch = rows([1])
    with Connection(Target(longbow.url)) as connection:
        writer, reader = connection.client.do_put(fl.FlightDescriptor.for_path("d"), batch.schema, connection.options())
        writer.write_batch(batch)  # accepted without an error
        assert json.loads(reader.read().to_pybytes())["status"] == "slow_down"
        with pytest.raises(fl.FlightInternalError, match="flush failed"):
            writer.close()
        with pytest.raises(fl.FlightInternalError, match="missing flight descriptor path"):
            connection.client.do_put(fl.FlightDescriptor.for_command(b"x"), batch.schema)[0].close()


def test_a_full_server_blocks_without_an_error(longbow: LongbowDouble) -> None:
    longbow.store.max_memory, longbow.store.memory = 1000, 950
    with Connection(Target(longbow.url, timeout=0.3)) as connection, pytest.raises(fl.FlightTimedOutError):
        put(connection, "d", rows([1]))


def test_every_call_has_a_deadline(longbow: LongbowDouble) -> None:
    longbow.store.faults.hang = True
    with Connection(Target(longbow.url, timeout=0.2)) as connection:
        for call in (
            lambda: connection.readiness("d"),
            lambda: connection.delete("d", 1),
            lambda: connection.delete_dataset("d"),
            lambda: connection.search("d", np.ones(SIZE, np.float32), 1),
        ):
            with pytest.raises(DeadlineError, match=r"within 0\.2 s"):
                call()


def test_a_token_goes_to_the_proxy_and_never_unencrypted_to_another_machine(longbow: LongbowDouble) -> None:
    with Connection(Target(longbow.url, token="secret")) as connection:
        connection.readiness("d")
    assert longbow.store.headers[-1]["authorization"] == ["Bearer secret"]
    with pytest.raises(InputError, match=r"unencrypted: use grpc\+tls"):
        Target("grpc://db.example.org:3000", token="secret")


def test_invalid_urls() -> None:
    for url in ("localhost:3000", "http://h:1", "grpc://h", "grpc://h:99999", "grpc://h:1/path"):
        with pytest.raises(InputError, match="must be grpc://HOST:PORT"):
            Target(url)


def test_a_server_that_rejects_calls_is_a_service_error(longbow: LongbowDouble) -> None:
    longbow.store.faults.refuse = True
    with Connection(Target(longbow.url)) as connection, pytest.raises(ServiceError, match="shutting down"):
        connection.readiness("d")


def test_a_proxy_with_tls_and_a_token(tmp_path: Path) -> None:
    authority = trustme.CA()
    chain = authority.issue_cert("127.0.0.1")
    certificate = (b"".join(blob.bytes() for blob in chain.cert_chain_pems), chain.private_key_pem.bytes())
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    with LongbowDouble(certificate=certificate, token="secret") as proxied:
        assert proxied.url.startswith("grpc+tls://")
        with Connection(Target(proxied.url, "secret", ca_file, trace="job-7")) as connection:
            put(connection, "d", rows([1, 2]))
            assert indexed(connection, "d", 2) == 2
        assert proxied.store.headers[-1]["x-request-id"] == ["job-7"]
        with Connection(Target(proxied.url, "wrong", ca_file)) as connection, pytest.raises(InputError, match="token"):
            connection.readiness("d")
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(other)
        with Connection(Target(proxied.url, "secret", other, timeout=2.0)) as connection, pytest.raises(ServiceError):
            connection.readiness("d")
    with pytest.raises(InputError, match="certificates cannot be read"):
        Connection(Target("grpc+tls://127.0.0.1:1", "secret", tmp_path / "none.pem"))


def test_a_trace_that_does_not_fit_a_header() -> None:
    with pytest.raises(InputError, match="use up to 128 letters"):
        Target("grpc://127.0.0.1:3000", trace="a\nb")


def test_exchange_stores_vectors_of_another_length_without_indexing_so_the_schema_is_checked_first(
    longbow: LongbowDouble,
) -> None:
    with Connection(Target(longbow.url)) as connection:
        put(connection, "d", rows([1]))
        there = connection.schema("d")
        assert put(connection, "d", rows([2], size=4))[0]["status"] == "acked"
        assert connection.readiness("d").index_len == 1
        assert there.field("vector").type.list_size == SIZE
        check_schema("d", there, longbow_schema(SIZE, with_text=True))
        with pytest.raises(InputError, match="has vectors of 8 numbers, and these have 4"):
            check_schema("d", there, longbow_schema(4, with_text=False))
