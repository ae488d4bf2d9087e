"""The Flight server, with pyarrow's client."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.runtime import Embeddings
from fletcher.serve.arrow.batches import choose_column, read_texts, with_vectors
from fletcher.serve.arrow.options import ArrowOptions
from fletcher.serve.errors import FieldError
from fletcher.serve.flight.server import FlightServer
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import DIMENSION, POISON, FakeEncoder, expected, request_for

SECONDS = 10.0
EMBED = fl.FlightDescriptor.for_path("embed")


@pytest.fixture
def client(flight_url: str) -> Iterator[Any]:
    with fl.connect(flight_url) as connected:
        yield connected


def command(**options: Any) -> Any:
    return fl.FlightDescriptor.for_command(json.dumps(options).encode())


def exchange(client: Any, batches: list[Any], descriptor: Any = EMBED) -> Any:
    """Send all batches, then return all answers as a table."""
    writer, reader = client.do_exchange(descriptor, fl.FlightCallOptions(timeout=SECONDS))
    with writer:
        writer.begin(batches[0].schema)
        for batch in batches:
            writer.write_batch(batch)
        writer.done_writing()
        return reader.read_all()


def refused(client: Any, batches: list[Any], descriptor: Any = EMBED) -> Any:
    """Return the error that the client raises, in whichever of its calls it is raised."""
    writer, reader = client.do_exchange(descriptor, fl.FlightCallOptions(timeout=SECONDS))
    try:
        writer.begin(batches[0].schema)
        for batch in batches:
            writer.write_batch(batch)
        writer.done_writing()
        reader.read_all()
    except (pa.ArrowException, fl.FlightError) as error:
        return error
    raise AssertionError("the server did not reject the stream")


def texts_batch(texts: list[str], **columns: Any) -> Any:
    return pa.RecordBatch.from_pydict({"text": pa.array(texts), **columns})


def vectors_of(table: Any) -> Any:
    return np.array(table["vector"].to_pylist(), np.float32)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.005)


def test_the_answer_has_vectors_and_all_other_columns(client: Any) -> None:
    batches = [
        texts_batch(["ab", "cd"], id=pa.array([7, 8]), tags=pa.array([["x"], None])),
        texts_batch(["ef"], id=pa.array([9]), tags=pa.array([["y", "z"]])),
    ]
    table = exchange(client, batches)
    assert table.schema.names == ["text", "id", "tags", "vector"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), DIMENSION)
    assert table.drop_columns(["vector"]).equals(pa.Table.from_batches(batches))
    np.testing.assert_array_equal(vectors_of(table), np.stack([expected(text) for text in ("ab", "cd", "ef")]))
    assert [len(batch) for batch in table.to_batches()] == [2, 1]


def test_the_schema_names_the_model_of_the_vectors(client: Any) -> None:
    batch = texts_batch(["ab"]).replace_schema_metadata({"mine": "kept"})
    metadata = exchange(client, [batch]).schema.metadata
    assert metadata[b"mine"] == b"kept"
    assert metadata[b"fletcher.model"] == b"fake-model"
    assert metadata[b"fletcher.digest"] == b"c0ffee"
    assert metadata[b"fletcher.variant"] == b"cpu-fp32"
    assert metadata[b"fletcher.dimension"] == b"8"
    assert metadata[b"fletcher.normalization"] == b"none"


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.uint32(), pa.large_string()),  # polars writes categories with this type
    ],
    ids=str,
)
def test_every_kind_of_string_column_works(client: Any, kind: Any) -> None:
    if pa.types.is_dictionary(kind):
        column = pa.array(["ab", "cd", "ab"]).dictionary_encode().cast(kind)
    else:
        column = pa.array(["ab", "cd", "ab"], kind)
    batch = pa.RecordBatch.from_arrays([column], ["text"])
    table = exchange(client, [batch])
    assert table.schema.field("text").type == kind
    assert table["text"].to_pylist() == ["ab", "cd", "ab"]
    np.testing.assert_array_equal(vectors_of(table), np.stack([expected(text) for text in ("ab", "cd", "ab")]))


def test_the_column_is_text_or_the_only_string_column_or_the_named_one(client: Any) -> None:
    only = pa.RecordBatch.from_pydict({"id": pa.array([1]), "body": pa.array(["ab"])})
    np.testing.assert_array_equal(vectors_of(exchange(client, [only]))[0], expected("ab"))
    several = pa.RecordBatch.from_pydict({"title": pa.array(["ab"]), "text": pa.array(["cd"])})
    np.testing.assert_array_equal(vectors_of(exchange(client, [several]))[0], expected("cd"))
    named = exchange(client, [several], command(column="title"))
    np.testing.assert_array_equal(vectors_of(named)[0], expected("ab"))


def test_options_in_a_command(client: Any) -> None:
    table = exchange(client, [texts_batch(["ab"])], command(input_type="query", dimensions=4, model="fake"))
    assert table.schema.metadata[b"fletcher.dimension"] == b"4"
    np.testing.assert_array_equal(vectors_of(table)[0], expected("ab", "query: ")[:4])


def test_null_in_an_option_is_the_same_as_an_option_that_is_left_out(client: Any) -> None:
    options = command(input_type="search_query", dtype=None, overflow=None, model=None)
    table = exchange(client, [texts_batch(["ab"])], options)
    np.testing.assert_array_equal(vectors_of(table)[0], expected("ab", "query: "))


def test_options_in_the_first_messages_metadata(client: Any) -> None:
    batch = texts_batch(["ab"])
    writer, reader = client.do_exchange(EMBED)
    with writer:
        writer.begin(batch.schema)
        writer.write_with_metadata(batch, json.dumps({"dimensions": 4}).encode())
        writer.done_writing()
        np.testing.assert_array_equal(vectors_of(reader.read_all())[0], expected("ab")[:4])


def test_a_client_can_wait_for_each_answer(client: Any) -> None:
    writer, reader = client.do_exchange(EMBED, fl.FlightCallOptions(timeout=SECONDS))
    with writer:
        writer.begin(pa.schema([("text", pa.string())]))
        for text in ("ab", "cd", "ef"):
            writer.write_batch(texts_batch([text]))
            chunk = reader.read_chunk()
            np.testing.assert_array_equal(np.array(chunk.data["vector"][0].as_py(), np.float32), expected(text))
        writer.done_writing()


def test_batches_are_read_ahead_while_the_first_is_computed(
    client: Any, server: Server, fake_encoder: FakeEncoder
) -> None:
    fake_encoder.gate.clear()
    writer, reader = client.do_exchange(EMBED, fl.FlightCallOptions(timeout=SECONDS))
    with writer:
        writer.begin(pa.schema([("text", pa.string())]))
        for text in ("ab", "cd", "ef"):
            writer.write_batch(texts_batch([text]))
        wait_for(lambda: server.engine.open_requests == 3)
        fake_encoder.gate.set()
        writer.done_writing()
        assert reader.read_all().num_rows == 3


def test_empty_batches_and_empty_streams(client: Any) -> None:
    table = exchange(client, [texts_batch(["ab"]), texts_batch(["ab"]).slice(0, 0), texts_batch(["cd"])])
    np.testing.assert_array_equal(vectors_of(table), np.stack([expected("ab"), expected("cd")]))
    writer, reader = client.do_exchange(EMBED, fl.FlightCallOptions(timeout=SECONDS))
    with writer:
        writer.begin(pa.schema([("text", pa.string())]))
        writer.done_writing()
        empty = reader.read_all()
    assert empty.num_rows == 0
    assert empty.schema.field("vector").type == pa.list_(pa.float32(), DIMENSION)


def test_a_batch_larger_than_those_of_the_engine_has_one_answer(client: Any) -> None:
    texts = [f"text {index}" for index in range(3000)]
    table = exchange(client, [texts_batch(texts)])
    np.testing.assert_array_equal(vectors_of(table), np.stack([expected(text) for text in texts]))


def test_several_streams_at_once(flight_url: str) -> None:
    failures: list[str] = []

    def stream(number: int) -> None:
        with fl.connect(flight_url) as client:
            texts = [f"{number} {index}" for index in range(50)]
            table = exchange(client, [texts_batch([text]) for text in texts])
            if not np.array_equal(vectors_of(table), np.stack([expected(text) for text in texts])):
                failures.append(str(number))

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    ("batch", "descriptor", "words"),
    [
        (pa.RecordBatch.from_pydict({"id": pa.array([1])}), EMBED, "no string column"),
        (pa.RecordBatch.from_pydict({"a": pa.array(["x"]), "b": pa.array(["y"])}), EMBED, "several string columns"),
        (texts_batch(["a"]), command(column="body"), "no string column named 'body'"),
        (pa.RecordBatch.from_pydict({"text": pa.array([[15339, 1917]])}), EMBED, "no string column"),  # token ids
        (texts_batch(["a"], vector=pa.array([1.0])), EMBED, "column 'vector' already"),
        (pa.RecordBatch.from_pydict({"text": pa.array(["a", None])}), EMBED, "row 1 .* of column 'text' is null"),
        (texts_batch(["a"]), command(color="blue"), "unknown field `color`"),
        (texts_batch(["a"]), fl.FlightDescriptor.for_command(b"\xff{"), "options cannot be used"),
        (texts_batch(["a"]), command(dimensions=5), "dimensions is 5"),
        (texts_batch(["a"]), command(input_type="poem"), "input_type is 'poem'"),
    ],
)
def test_unusable_streams_are_invalid_arguments(client: Any, batch: Any, descriptor: Any, words: str) -> None:
    error = refused(client, [batch], descriptor)
    assert isinstance(error, pa.ArrowInvalid)
    assert re.search(words, str(error))
    assert "Traceback" not in str(error)
    assert ".py" not in str(error)


def test_logs_have_the_request_id_and_no_text_of_the_client(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "fletcher"):
        refused(client, [texts_batch(["secret"])], command(input_type="secret"))
        client.do_get(ticket(texts=["secret"]), headed(x_request_id="mine")).read_all()
        wait_for(lambda: len([record for record in caplog.records if record.message == "call"]) == 2)
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    assert all(line["request_id"] for line in lines)
    assert [(line["request_id"], line["status"]) for line in lines if line["route"] == "get"] == [("mine", "ok")]
    assert {line.get("error") for line in lines} == {None, "OptionError"}
    assert "secret" not in caplog.text and "secret" not in str(lines)


def test_a_null_is_named_by_its_row_in_the_stream(client: Any) -> None:
    nulls = pa.RecordBatch.from_pydict({"text": pa.array(["c", None], pa.string())})
    error = refused(client, [texts_batch(["a", "b"]), nulls])
    assert "row 3 (row 1 of its batch)" in str(error)


def test_nulls_in_indices_and_words_of_a_dictionary_are_found() -> None:
    for indices, words in (([0, None], ["a"]), ([0, 1], ["a", None])):
        column = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int8()), pa.array(words, pa.string()))
        with pytest.raises(FieldError, match=r"row 11 \(row 1 of its batch\)"):
            read_texts(pa.RecordBatch.from_arrays([column], ["text"]), 0, 10)


def test_buffers_that_contradict_their_schema_are_rejected() -> None:
    # pyarrow's quick validation checks only the last offset.
    offsets = pa.py_buffer(np.array([0, 4000, 4], np.int32).tobytes())
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abcd")])
    with pytest.raises(FieldError, match="not valid"):
        read_texts(pa.RecordBatch.from_arrays([broken], ["text"]), 0, 0)
    latin = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32).tobytes()), pa.py_buffer(b"\xff")]
    )
    with pytest.raises(FieldError, match="not valid"):
        read_texts(pa.RecordBatch.from_arrays([latin], ["text"]), 0, 0)


def test_a_repeated_column_name_is_ambiguous() -> None:
    schema = pa.schema([("text", pa.string()), ("text", pa.string())])
    with pytest.raises(FieldError, match="several string columns"):
        choose_column(schema, ArrowOptions())


def test_vectors_are_not_copied() -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), 2))])
    embeddings = Embeddings(vectors, np.ones(3, np.int64), np.zeros(3, np.int32))
    batch = with_vectors(texts_batch(["a", "b", "c"]), embeddings, schema)
    assert batch["vector"].values.buffers()[1].address == vectors.ctypes.data
    assert batch["vector"].to_pylist() == vectors.tolist()


def test_an_unknown_path_is_not_found(client: Any) -> None:
    error = refused(client, [texts_batch(["a"])], fl.FlightDescriptor.for_path("elsewhere"))
    assert isinstance(error, pa.ArrowKeyError)
    assert isinstance(refused(client, [texts_batch(["a"])], command(model="other")), pa.ArrowKeyError)


def test_a_failed_session_is_an_internal_error_without_its_reason(client: Any, fake_encoder: FakeEncoder) -> None:
    fake_encoder.fails = RuntimeError("cannot open /srv/secret")
    error = refused(client, [texts_batch(["a"])])
    assert isinstance(error, fl.FlightInternalError)
    assert "secret" not in str(error)


def test_a_defect_while_reading_ends_the_stream(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> list[str]:
        raise RuntimeError("secret")

    monkeypatch.setattr("fletcher.serve.flight.exchange.read_texts", broken)
    error = refused(client, [texts_batch(["ab"])], EMBED)
    assert isinstance(error, fl.FlightInternalError)
    assert "secret" not in str(error)


def test_a_vector_that_is_not_finite_is_never_answered(client: Any) -> None:
    assert isinstance(refused(client, [texts_batch(["fine", POISON])]), fl.FlightInternalError)
    assert exchange(client, [texts_batch(["fine"])]).num_rows == 1


def test_a_failure_during_a_stream_is_sent_to_the_client(client: Any) -> None:
    writer, reader = client.do_exchange(EMBED, fl.FlightCallOptions(timeout=SECONDS))
    writer.begin(pa.schema([("text", pa.string())]))
    writer.write_batch(texts_batch(["fine"]))
    assert reader.read_chunk().data.num_rows == 1
    writer.write_batch(texts_batch([POISON]))
    notice = reader.read_chunk()
    assert notice.data is None
    assert json.loads(notice.app_metadata.to_pybytes())["error"]["type"] == "NotFiniteError"
    with pytest.raises(fl.FlightInternalError):
        writer.close()


def test_overload_is_unavailable_with_the_time_of_a_retry_and_a_stream_waits() -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()
    with Server(encoder, ServerOptions(http="off", flight="127.0.0.1:0", queue_tokens=4)) as server:
        engine = server.engine
        engine.submit(request_for(["ab"]))
        wait_for(lambda: engine.admission.tokens == 0)
        engine.submit(request_for(["cd"]))
        with fl.connect(str(server.addresses.flight)) as client:
            with pytest.raises(fl.FlightUnavailableError) as caught:
                client.do_get(ticket(texts=["gh"]))
            writer, reader = client.do_exchange(EMBED, fl.FlightCallOptions(timeout=SECONDS))
            with writer:
                writer.begin(pa.schema([("text", pa.string())]))
                writer.write_batch(texts_batch(["ef"]))
                wait_for(lambda: engine.admission.parked.count == 1)
                encoder.gate.set()
                writer.done_writing()
                np.testing.assert_array_equal(vectors_of(reader.read_all())[0], expected("ef"))
    error = caught.value
    info = json.loads(error.extra_info)
    assert info["type"] == "OverloadedError"
    assert info["retry_after"] >= 1


def test_a_running_stream_waits_until_the_queue_has_space(fake_encoder: FakeEncoder) -> None:
    fake_encoder.delay = 0.01
    with (
        Server(fake_encoder, ServerOptions(http="off", flight="127.0.0.1:0", queue_tokens=8)) as server,
        fl.connect(str(server.addresses.flight)) as client,
    ):
        texts = [f"text {index}" for index in range(20)]
        table = exchange(client, [texts_batch([text]) for text in texts])
    np.testing.assert_array_equal(vectors_of(table), np.stack([expected(text) for text in texts]))


def test_requests_of_a_client_that_disconnects_are_dropped(
    flight_url: str, server: Server, fake_encoder: FakeEncoder
) -> None:
    fake_encoder.gate.clear()
    with fl.connect(flight_url) as client:
        writer, reader = client.do_exchange(EMBED)
        writer.begin(pa.schema([("text", pa.string())]))
        for index in range(4):
            writer.write_batch(texts_batch([f"text {index}"]))
        wait_for(lambda: server.engine.open_requests == 4)
        reader.cancel()
        assert isinstance(server._flight, FlightServer)
        exchanges = server._flight._exchanges
        wait_for(lambda: not exchanges)
        with pytest.raises((pa.ArrowException, fl.FlightError)):
            writer.close()
    fake_encoder.gate.set()
    wait_for(lambda: server.engine.open_requests == 0)
    assert len(fake_encoder.batches) <= fake_encoder.info.workers


def test_descriptions(client: Any, flight_url: str) -> None:
    for info in (client.get_flight_info(EMBED), next(iter(client.list_flights()))):
        assert info.schema.names == ["text", "vector"]
        assert info.schema.field("vector").type == pa.list_(pa.float32(), DIMENSION)
        assert info.schema.metadata[b"fletcher.digest"] == b"c0ffee"
        assert [location.uri.decode() for location in info.endpoints[0].locations] == [
            flight_url.replace("grpc://", "grpc://")
        ]
    short = client.get_flight_info(command(column="body", dimensions=4))
    assert short.schema.names == ["body", "vector"]
    assert short.schema.field("vector").type.list_size == 4
    with pytest.raises(pa.ArrowKeyError, match=r'use \["embed"\]'):
        client.get_flight_info(fl.FlightDescriptor.for_path("elsewhere"))


def test_actions(client: Any, fake_encoder: FakeEncoder) -> None:
    assert {action.type for action in client.list_actions()} == {"info", "health", "stats", "load", "unload"}

    def act(name: str) -> Any:
        return json.loads(next(iter(client.do_action(name))).body.to_pybytes())

    assert act("info")["model"]["digest"] == "c0ffee"
    assert act("info")["model"]["dimensions"] == [8, 4]
    assert act("health") == {"status": "ok", "ready": True, "reason": "", "canary": "self-made"}
    stats = next(iter(client.do_action("stats"))).body.to_pybytes().decode()
    assert "fletcher_queue_tokens 0.0" in stats
    with pytest.raises(pa.ArrowKeyError, match="no action 'reboot'"):
        act("reboot")


def test_the_answer_has_the_request_id(flight_url: str) -> None:
    seen: list[dict[str, list[str]]] = []

    class Watch(fl.ClientMiddleware):  # type: ignore[misc]
        def received_headers(self, headers: dict[str, list[str]]) -> None:
            seen.append(headers)

        def sending_headers(self) -> dict[str, str]:
            return {"x-request-id": "mine-1"}

    class Watches(fl.ClientMiddlewareFactory):  # type: ignore[misc]
        def start_call(self, info: Any) -> Watch:
            return Watch()

    with fl.connect(flight_url, middleware=[Watches()]) as client:
        list(client.do_action("health"))
    assert ["mine-1"] in [headers.get("x-request-id") for headers in seen]


def test_stopping_does_not_wait_for_a_silent_client(fake_encoder: FakeEncoder) -> None:
    server = Server(fake_encoder, ServerOptions(http="off", flight="127.0.0.1:0", drain_seconds=20))
    script = f"""
        import pyarrow as pa, pyarrow.flight as fl, sys
        client = fl.connect({server.addresses.flight!r})
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
        writer.begin(pa.schema([("text", pa.string())]))
        writer.write_batch(pa.RecordBatch.from_pydict({{"text": ["ab"]}}))
        print(reader.read_chunk().data.num_rows, flush=True)
        try:
            reader.read_chunk()
        except fl.FlightError as error:
            print(type(error).__name__, flush=True)
    """
    silent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert silent.stdout is not None
    assert silent.stdout.readline() == "1\n"
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 5
    assert silent.stdout.readline() == "FlightUnavailableError\n"
    silent.stdout.close()
    assert silent.wait(SECONDS) == 0


def test_stopping_answers_batches_that_were_read(fake_encoder: FakeEncoder) -> None:
    fake_encoder.delay = 0.05
    server = Server(fake_encoder, ServerOptions(http="off", flight="127.0.0.1:0", drain_seconds=10))
    with fl.connect(str(server.addresses.flight)) as client:
        writer, reader = client.do_exchange(EMBED, fl.FlightCallOptions(timeout=SECONDS))
        writer.begin(pa.schema([("text", pa.string())]))
        for text in ("ab", "cd", "ef"):
            writer.write_batch(texts_batch([text]))
        wait_for(lambda: server.engine.metrics.admitted._value.get() == 3)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        for text in ("ab", "cd", "ef"):
            vector = reader.read_chunk().data["vector"][0].as_py()
            np.testing.assert_array_equal(np.array(vector, np.float32), expected(text))
        stopping.join(SECONDS)
        assert not stopping.is_alive()
        with pytest.raises((pa.ArrowException, fl.FlightError)):
            writer.close()


def headed(**headers: str) -> Any:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return fl.FlightCallOptions(timeout=SECONDS, headers=pairs)


def ticket(**options: Any) -> Any:
    return fl.Ticket(json.dumps(options).encode())


def test_a_ticket_with_texts_returns_their_vectors(client: Any) -> None:
    table = client.do_get(ticket(texts=["ab", "c"], dimensions=4, column="body")).read_all()
    assert table.column_names == ["body", "vector"]
    assert table["body"].to_pylist() == ["ab", "c"]
    np.testing.assert_array_equal(vectors_of(table), np.stack([expected("ab"), expected("c")])[:, :4])
    assert table.schema.metadata[b"fletcher.digest"] == b"c0ffee"
    assert client.do_get(ticket(texts=[])).read_all().num_rows == 0
    for bad in (b"embed", b"{}", b'{"texts": [1]}', b'{"texts": ["a"], "dimensions": 5}', b'{"texts": ["a"], "x": 1}'):
        with pytest.raises(pa.ArrowInvalid):
            client.do_get(fl.Ticket(bad)).read_all()


def test_a_call_past_its_deadline_fails_and_is_not_computed(
    client: Any, fake_encoder: FakeEncoder, server: Server
) -> None:
    fake_encoder.gate.clear()
    with pytest.raises(fl.FlightTimedOutError, match="deadline"):
        client.do_get(ticket(texts=["late"]), headed(x_request_timeout="0.1")).read_all()
    fake_encoder.gate.set()
    wait_for(lambda: server.engine.open_requests == 0)
    table = client.do_get(ticket(texts=["ab"]), headed(x_request_timeout="9", x_priority="bulk")).read_all()
    np.testing.assert_array_equal(vectors_of(table), expected("ab")[None])


@pytest.mark.parametrize("header", [{"x_priority": "urgent"}, {"x_request_timeout": "soon"}])
def test_unusable_headers_are_invalid_arguments(client: Any, header: dict[str, str]) -> None:
    with pytest.raises(pa.ArrowInvalid, match="X-"):
        client.do_get(ticket(texts=["ab"]), headed(**header)).read_all()


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_answers_are_compressed_on_request(client: Any, compression: Any) -> None:
    table = exchange(client, [texts_batch(["ab"] * 50)], command(compression=compression))
    np.testing.assert_array_equal(vectors_of(table), np.stack([expected("ab")] * 50))
    table = client.do_get(ticket(texts=["ab"], compression=compression)).read_all()
    np.testing.assert_array_equal(vectors_of(table), expected("ab")[None])
    assert ArrowOptions(compression=compression).ipc.compression == compression
    with pytest.raises(pa.ArrowInvalid):
        client.do_get(ticket(texts=["ab"], compression="gzip")).read_all()


@pytest.mark.parametrize(
    ("dtype", "kind", "extra"),
    [
        ("float32", pa.list_(pa.float32(), DIMENSION), []),
        ("float16", pa.list_(pa.float16(), DIMENSION), []),
        ("int8", pa.list_(pa.int8(), DIMENSION), ["scale"]),
        ("ubinary", pa.binary(DIMENSION // 8), []),
    ],
)
def test_vectors_have_the_requested_type(client: Any, dtype: str, kind: Any, extra: list[str]) -> None:
    texts = ["ab", "cd", "efg"]
    reference = np.stack([expected(text) for text in texts])
    for table in (
        exchange(client, [texts_batch(texts)], command(dtype=dtype)),
        client.do_get(ticket(texts=texts, dtype=dtype)).read_all(),
    ):
        assert table.schema.names == ["text", "vector", *extra]
        assert table.schema.field("vector").type == kind
        assert table.schema.metadata[b"fletcher.dtype"] == dtype.encode()
        if dtype == "ubinary":  # each bit is the sign of an element, highest bit first; no element is negative
            bits = np.unpackbits(np.frombuffer(b"".join(table["vector"].to_pylist()), np.uint8)).reshape(3, -1)
            np.testing.assert_array_equal(bits, reference > 0)
        elif dtype == "int8":
            values = np.array(table["vector"].to_pylist(), np.float64) * np.array(table["scale"])[:, None]
            np.testing.assert_allclose(values, reference, atol=np.abs(reference).max() / 127 / 2 + 1e-3)
        else:
            np.testing.assert_array_equal(vectors_of(table), reference.astype(dtype).astype(np.float32))


def test_the_metadata_states_the_normalization(client: Any) -> None:
    for normalize, words in ((None, b"none"), (True, b"l2"), (False, b"none")):
        table = exchange(client, [texts_batch(["ab"])], command(normalize=normalize))
        assert table.schema.metadata[b"fletcher.normalization"] == words
        assert (abs(np.linalg.norm(vectors_of(table)[0]) - 1) < 1e-5) == (words == b"l2")


def test_the_schema_needs_no_computation(client: Any) -> None:
    schema = client.get_schema(command(column="words", dimensions=4, dtype="float16")).schema
    assert schema.names == ["words", "vector"]
    assert schema.field("vector").type == pa.list_(pa.float16(), 4)
    assert schema.metadata[b"fletcher.digest"] == b"c0ffee"


def test_the_metadata_has_the_time(client: Any) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    table = client.do_get(ticket(texts=["ab"])).read_all()
    written = datetime.fromisoformat(table.schema.metadata[b"fletcher.time"].decode())
    assert before <= written <= datetime.now(UTC)


def test_admins_load_and_unload_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.surroundings.fingerprint", lambda spec: spec.path)
    from fletcher.serve.access.keys_file import add_key
    from fletcher.serve.models.spec import ModelSpec

    admin = add_key(tmp_path / "keys", "boss", "admin")
    user = add_key(tmp_path / "keys", "somebody", "user")

    def keyed(key: str) -> Any:
        return fl.FlightCallOptions(timeout=SECONDS, headers=[(b"authorization", f"Bearer {key}".encode())])

    def act(client: Any, key: str, name: str, body: bytes) -> Any:
        return json.loads(next(iter(client.do_action(fl.Action(name, body), keyed(key)))).body.to_pybytes())

    first = ModelSpec(path="", name="one")
    with (
        Server(
            [first],
            ServerOptions(http="off", flight="127.0.0.1:0", keys=str(tmp_path / "keys"), admin="on", models_root="/"),
            load=lambda spec: FakeEncoder(),
        ) as running,
        fl.connect(running.addresses.flight) as client,
    ):
        more = json.dumps({"path": "", "name": "two"}).encode()
        for refused in (user, "wrong"):
            with pytest.raises((fl.FlightUnauthorizedError, fl.FlightUnauthenticatedError)):
                act(client, refused, "load", more)
        assert {model["name"] for model in act(client, admin, "load", more)} == {"one", "two"}
        table = client.do_get(ticket(texts=["ab"], model="two"), keyed(user)).read_all()
        np.testing.assert_array_equal(vectors_of(table), expected("ab")[None])
        assert {model["name"] for model in act(client, admin, "unload", b"two")} == {"one"}
        with pytest.raises(pa.ArrowKeyError, match="no model 'two'"):
            act(client, admin, "unload", b"two")
        with pytest.raises(pa.ArrowInvalid, match="path"):
            act(client, admin, "load", b"{}")


def test_without_keys_flight_clients_of_the_loopback_are_admins(client: Any) -> None:
    with pytest.raises(pa.ArrowKeyError, match="no model 'nothing'"):
        list(client.do_action(fl.Action("unload", b"nothing")))
