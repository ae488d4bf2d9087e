"""HTTP over a real socket: routes, errors, limits, overload, and clients that disconnect."""

from __future__ import annotations

import base64
import json
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fletcher.serve.engine.open_request import OpenRequest
from fletcher.serve.http.apis.foreign_fields import EMBEDDING
from fletcher.serve.http.apis.openai.types import EmbeddingList, EmbeddingRequest, ModelList
from fletcher.serve.http.errors import ErrorBody
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import DIMENSION, POISON, FakeEncoder, canary, expected, info, vector_of

SECONDS = 10.0


@pytest.fixture
def http(http_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=http_url, timeout=SECONDS) as client:
        yield client


def embed(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": "fake-model", "input": "a text"} | fields)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object. It must have exactly the shape of OpenAI."""
    assert response.headers["content-type"] == "application/json"
    msgspec.json.decode(response.content, type=ErrorBody)
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def test_floats_usage_and_truncated_tokens(http: httpx.Client) -> None:
    response = embed(http, input=["ab", "x" * 20], encoding_format="float")
    assert response.status_code == 200
    answer = response.json()
    assert answer["object"] == "list"
    assert answer["model"] == "fake-model"
    assert answer["usage"] == {"prompt_tokens": 20, "total_tokens": 20}
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert [(item["tokens_seen"], item["tokens_dropped"]) for item in answer["data"]] == [(4, 0), (16, 6)]
    assert answer["data"][0]["embedding"] == expected("ab").tolist()
    assert answer["data"][1]["embedding"] == expected("x" * 20).tolist()


def test_base64_is_little_endian_float32(http: httpx.Client) -> None:
    item = embed(http, input="ab", encoding_format="base64").json()["data"][0]
    assert struct.unpack(f"<{DIMENSION}f", base64.b64decode(item["embedding"])) == tuple(expected("ab"))


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_a_long_list_has_all_vectors_in_order(http: httpx.Client, encoding_format: str) -> None:
    texts = [f"text {index}" for index in range(2048)]
    response = embed(http, input=texts, encoding_format=encoding_format)
    answer = msgspec.json.decode(response.content, type=EmbeddingList, strict=True)
    assert [item.index for item in answer.data] == list(range(2048))
    for text, item in zip(texts, response.json()["data"], strict=True):
        value = item["embedding"]
        vector = np.frombuffer(base64.b64decode(value), "<f4") if encoding_format == "base64" else np.array(value)
        np.testing.assert_array_equal(vector, expected(text))


def test_token_ids(http: httpx.Client) -> None:
    assert embed(http, input=[5, 6, 7]).json()["data"][0]["embedding"] == vector_of([5, 6, 7]).tolist()
    rows = embed(http, input=[[5, 6, 7], [8]]).json()["data"]
    assert [row["embedding"] for row in rows] == [vector_of([5, 6, 7]).tolist(), vector_of([8]).tolist()]


def test_input_type_adds_the_models_prompt(http: httpx.Client) -> None:
    answer = embed(http, input="ab", input_type="query").json()
    assert answer["data"][0]["embedding"] == expected("ab", "query: ").tolist()


def test_dimensions_shorten_vectors(http: httpx.Client) -> None:
    assert embed(http, dimensions=4).json()["data"][0]["embedding"] == expected("a text")[:4].tolist()


def test_answers_to_aliases_have_the_name_of_the_model(http: httpx.Client) -> None:
    assert embed(http, model="fake").json()["model"] == "fake-model"


@pytest.mark.parametrize("text", ["", "   \n\t", "nul\0bell\x07", "🏹 ünïcode", "a" * 10_000_000])
def test_odd_texts_have_vectors(http: httpx.Client, text: str) -> None:
    response = embed(http, input=text)
    assert response.status_code == 200
    assert response.json()["data"][0]["embedding"] == expected(text).tolist()


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"not json", None),
    (b'{"input": "a"', None),
    (b"[]", None),
    (b"null", None),
    (b"\xff\xfe", None),
    (b'\xef\xbb\xbf{"input": "a", "model": "fake-model"}', None),
    (b'{"input": "\\ud800", "model": "fake-model"}', "input"),
    (b'{"input": "\\udfff\\ud800", "model": "fake-model"}', "input"),
    (b'{"input": "\xff", "model": "fake-model"}', None),
    (b"[" * 100_000, None),
    (b'{"model": "fake-model"}', "input"),
    (b'{"input": "a"}', "model"),
    (b'{"input": [], "model": "fake-model"}', "input"),
    (b'{"input": [[]], "model": "fake-model"}', "input[0]"),
    (b'{"input": null, "model": "fake-model"}', "input"),
    (b'{"input": 3, "model": "fake-model"}', "input"),
    (b'{"input": {"a": 1}, "model": "fake-model"}', "input"),
    (b'{"input": ["a", 3], "model": "fake-model"}', "input[1]"),
    (b'{"input": [3, "a"], "model": "fake-model"}', "input[1]"),
    (b'{"input": ["a", null], "model": "fake-model"}', "input[1]"),
    (b'{"input": [true], "model": "fake-model"}', "input[0]"),
    (b'{"input": [[1.5]], "model": "fake-model"}', "input[0][0]"),
    (b'{"input": [-1], "model": "fake-model"}', "input[0]"),
    (b'{"input": [99999999999999999999], "model": "fake-model"}', "input[0]"),
    (b'{"input": "a", "model": 3}', "model"),
    (b'{"input": "a", "model": "fake-model", "frobnicate": 1}', "frobnicate"),
    (b'{"input": "a", "model": "fake-model", "encoding_format": "hex"}', "encoding_format"),
    (b'{"input": "a", "model": "fake-model", "dimensions": -1}', "dimensions"),
    (b'{"input": "a", "model": "fake-model", "dimensions": 5}', "dimensions"),
    (b'{"input": "a", "model": "fake-model", "dimensions": "4"}', "dimensions"),
    (b'{"input": "a", "model": "fake-model", "dimensions": 1e400}', "dimensions"),
    (b'{"input": "a", "model": "fake-model", "user": 3}', "user"),
    (b'{"input": "a", "model": "fake-model", "input_type": "poem"}', "input_type"),
    (b'{"input": [5], "model": "fake-model", "input_type": "query"}', "input_type"),
]


@pytest.mark.parametrize(("body", "field"), BAD_BODIES, ids=[body[:60].decode("latin-1") for body, _ in BAD_BODIES])
def test_the_error_of_an_invalid_body_names_the_field(http: httpx.Client, body: bytes, field: str | None) -> None:
    response = http.post("/v1/embeddings", content=body)
    assert response.status_code == 400
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == field
    assert error["message"]


def test_unknown_token_ids_are_rejected(http: httpx.Client) -> None:
    response = embed(http, input=[[5], [100]])
    assert response.status_code == 400
    assert "input[1] holds the token id 100" in error_of(response)["message"]


def test_too_many_inputs(http: httpx.Client) -> None:
    response = embed(http, input=["a"] * 2049)
    assert response.status_code == 400
    assert "2049" in error_of(response)["message"]


def test_an_unknown_model_is_404(http: httpx.Client) -> None:
    response = embed(http, model="text-embedding-3-large")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "fake-model" in error["message"]


def test_a_body_over_the_limit_is_413(fake_encoder: FakeEncoder) -> None:
    with (
        Server(fake_encoder, ServerOptions(http="127.0.0.1:0", flight="off", max_body=1000)) as server,
        httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS) as http,
    ):
        declared = embed(http, input="a" * 1000)
        chunked = http.post("/v1/embeddings", content=iter([b"x" * 600, b"x" * 600]))
        within = embed(http, input="a" * 900)
    for response in (declared, chunked):
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
    assert within.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/embeddings//", 404),
        ("GET", "/v1/embeddings/", 405),
        ("GET", "/v1/embeddings", 405),
        ("DELETE", "/v1/models/fake-model", 405),
        ("POST", "/health", 405),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/%00", 404),
    ],
)
def test_wrong_paths_and_methods(http: httpx.Client, method: str, path: str, status: int) -> None:
    response = http.request(method, path)
    assert response.status_code == status
    error_of(response)
    if status == 405:
        assert response.headers["allow"] in ("GET", "POST")


def test_models(http: httpx.Client) -> None:
    models = msgspec.json.decode(http.get("/v1/models").content, type=ModelList, strict=True)
    assert [model.id for model in models.data] == ["fake-model"]
    model = http.get("/v1/models/fake").json()
    assert model["dimensions"] == [DIMENSION, 4]
    assert model["digest"] == "c0ffee"
    assert model["input_types"] == ["query", "document", "clustering", "classification", "raw"]


def test_health_and_ready(http: httpx.Client) -> None:
    assert http.get("/health").status_code == 200
    assert http.get("/ready").json()["status"] == "ready"
    assert http.head("/ready").status_code == 200


def test_ready_runs_the_canary_again_after_a_failure(http: httpx.Client, fake_encoder: FakeEncoder) -> None:
    fake_encoder.canary = canary(passed=False, reason="min cosine 0.3")
    assert http.get("/ready").status_code == 200  # the canary passed at the load, and no batch has failed since then
    assert embed(http, input=POISON).status_code == 500
    response = http.get("/ready")
    assert response.status_code == 503
    assert "min cosine 0.3" in response.json()["reason"]
    assert http.get("/health").status_code == 200


def test_a_passing_canary_keeps_the_server_ready_after_a_bad_request(http: httpx.Client) -> None:
    assert embed(http, input=POISON).status_code == 500
    assert http.get("/ready").status_code == 200


def test_a_vector_that_is_not_finite_is_never_answered(http: httpx.Client, server: Server) -> None:
    response = embed(http, input=["fine", POISON])
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert embed(http, input="fine").status_code == 200


def test_failures_do_not_leak_internals(http: httpx.Client, fake_encoder: FakeEncoder) -> None:
    fake_encoder.fails = RuntimeError("cannot open /srv/secret/weights")
    response = embed(http)
    assert response.status_code == 500
    assert "secret" not in response.text


def test_request_ids_are_accepted_and_returned(http: httpx.Client) -> None:
    mine = http.post("/v1/embeddings", json={}, headers={"x-request-id": "my-id.7"})
    assert mine.headers["x-request-id"] == "my-id.7"
    first, second = http.get("/health"), http.get("/health")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    odd = http.get("/health", headers={"x-request-id": "<script>"})
    assert "<" not in odd.headers["x-request-id"]


def test_logs_have_the_request_id_and_never_the_text(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fletcher")
    http.post("/v1/embeddings", json={"model": "fake-model", "input": "TELLTALE"}, headers={"x-request-id": "good-1"})
    http.post(
        "/v1/embeddings", json={"model": "fake-model", "input": ["TELLTALE", 3]}, headers={"x-request-id": "bad-1"}
    )
    http.post(
        "/v1/embeddings",
        json={"model": "fake-model", "input": [POISON, "TELLTALE"]},
        headers={"x-request-id": "ugly-1"},
    )
    logged = [str(record.__dict__) for record in caplog.records]
    for request_id in ("good-1", "bad-1", "ugly-1"):
        assert any(request_id in line for line in logged)
    assert not any("TELLTALE" in line for line in logged)


def test_metrics_count_requests_and_errors(http: httpx.Client) -> None:
    embed(http, input=["ab", "x" * 20])
    embed(http, model="other")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }
    route = (("door", "http"), ("route", "/v1/embeddings"))
    assert samples["fletcher_vectors_processed_total", ()] == 2
    assert samples["fletcher_tokens_processed_total", ()] == 20
    assert samples["fletcher_tokens_dropped_total", ()] == 6
    assert samples["fletcher_request_duration_seconds_count", route] == 2
    assert samples["fletcher_requests_total", (*route, ("status", "404"))] == 1
    assert samples["fletcher_errors_total", (("type", "UnknownModelError"),)] == 1
    assert samples["fletcher_tokenization_duration_seconds_count", ()] == 1
    assert samples["fletcher_batch_texts_sum", ()] == 2
    assert samples["fletcher_queue_tokens", ()] == 0


def test_many_simultaneous_clients_get_their_own_vectors(http_url: str) -> None:
    def ask(index: int) -> None:
        with httpx.Client(base_url=http_url, timeout=SECONDS) as client:
            for turn in range(5):
                text = f"text {index} {turn}"
                assert embed(client, input=text).json()["data"][0]["embedding"] == expected(text).tolist()

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(ask, range(64)))


def test_overload_is_always_429_with_retry_after(fake_encoder: FakeEncoder) -> None:
    fake_encoder.gate.clear()
    with Server(fake_encoder, ServerOptions(http="127.0.0.1:0", flight="off", queue_tokens=64)) as server:

        def ask(index: int) -> httpx.Response:
            with httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS) as client:
                return embed(client, input=f"text {index:02}")

        with ThreadPoolExecutor(40) as pool:
            answers = [pool.submit(ask, index) for index in range(40)]
            wait_for(lambda: sum(answer.done() for answer in answers) > 5)
            fake_encoder.gate.set()
            responses = [answer.result(SECONDS) for answer in answers]
    assert {response.status_code for response in responses} == {200, 429}
    for index, response in enumerate(responses):
        if response.status_code == 200:
            assert response.json()["data"][0]["embedding"] == expected(f"text {index:02}").tolist()
        else:
            assert int(response.headers["retry-after"]) >= 1
            assert error_of(response)["type"] == "rate_limit_error"


def test_requests_of_a_disconnected_client_are_not_computed(
    http_url: str, server: Server, fake_encoder: FakeEncoder
) -> None:
    fake_encoder.gate.clear()
    body = json.dumps({"model": "fake-model", "input": "abc"}).encode()
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    port = int(http_url.rsplit(":", 1)[1])
    engine = server.engine
    admission, waiting = engine.admission, engine._backlog._waiting.heap
    with ExitStack() as stay:
        for number in range(1, fake_encoder.info.workers + 1):  # each of them blocks a worker
            connection = stay.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(request.replace(b"abc", b"ab%d" % number))  # identical requests would be computed once
            wait_for(lambda number=number: admission.count == number and admission.tokens == 0)  # type: ignore[misc]
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request.replace(b"abc", b"xyz"))
            wait_for(lambda: admission.tokens > 0)
            time.sleep(0.1)  # the server checks for a disconnect only if an answer takes longer than `WATCH_AFTER`
        wait_for(
            lambda: any(
                request.futures[0].cancelled() for _, _, request in [*waiting] if isinstance(request, OpenRequest)
            )
        )
        fake_encoder.gate.set()
        wait_for(lambda: admission.count == 0)
    assert fake_encoder.batches == [[5]] * fake_encoder.info.workers


def test_pipelined_requests_are_answered_in_order(http_url: str) -> None:
    body = b'{"model":"fake-model","input":"abc"}'
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nx-request-id: %s\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(http_url.rsplit(":", 1)[1]))) as connection:
        connection.settimeout(SECONDS)
        connection.sendall(b"".join(request % (name, len(body)) + body for name in (b"one", b"two", b"three")))
        received = b""
        while received.count(b'"usage"') < 3:
            received += connection.recv(65536)
    assert received.index(b"one") < received.index(b"two") < received.index(b"three")


def test_the_openapi_document_describes_the_routes(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert http.get("/", follow_redirects=True).url.path == "/docs"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/admin/") and method != "get":
                continue
            contents = operation.get("requestBody", {}).get("content", {})
            body = contents["application/json"]["example"] if "application/json" in contents else None
            if body and "model" in body:
                body = body | {"model": "fake-model"}
            where = path.replace("{id}", "fake-model").replace("{model}", "fake-model")
            response = http.request(method, where, json=body) if body else http.request(method, where)
            assert str(response.status_code) in operation["responses"], (path, response.text)
            kind = response.headers["content-type"].partition(";")[0]
            assert kind in operation["responses"][str(response.status_code)]["content"]
    schemas = document["components"]["schemas"]
    answer = embed(http).json()
    assert set(answer) == set(schemas["EmbeddingList"]["properties"])
    # Only int8 vectors, split texts and models with further outputs have these fields.
    others = {"scale", "chunks", "sparse", "token_vectors"}
    assert set(answer["data"][0]) | others == set(schemas["EmbeddingItem"]["properties"])
    assert set(answer["data"][0]) == set(schemas["EmbeddingItem"]["required"])
    assert (
        set(schemas["EmbeddingRequest"]["properties"])
        == {field.name for field in msgspec.structs.fields(EmbeddingRequest)} | EMBEDDING.keys()
    )
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert references <= set(schemas)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["input", "model", "encoding_format", "dimensions", "user", "input_type", "other"])
BODIES = (
    st.binary(max_size=200)
    | JSON_VALUES.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(FIELDS, JSON_VALUES, max_size=6).map(
        lambda value: json.dumps({"model": "fake-model", "input": "a"} | value).encode()
    )
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES)
def test_no_body_breaks_the_server(http: httpx.Client, body: bytes) -> None:
    response = http.post("/v1/embeddings", content=body)
    if response.status_code != 200:
        assert 400 <= response.status_code < 500
        error_of(response)


# State of the engine -------------------------------------------------------------------------------------------------------


def test_ready_names_the_provider_and_a_fallback(http: httpx.Client, fake_encoder: FakeEncoder) -> None:
    assert http.get("/ready").json() == {"status": "ready", "provider": "by hand", "canary": "self-made"}
    assert "fletcher_provider_fallback 0.0" in http.get("/metrics").text
    reason = "openvino was requested, mlas runs: no such library"
    fake_encoder.info = info(fallback=reason)
    assert http.get("/ready").json()["fallback"] == reason
    assert "fletcher_provider_fallback 1.0" in http.get("/metrics").text


def test_metrics_show_the_counts_of_the_encoder(http: httpx.Client) -> None:
    text = http.get("/metrics").text
    assert "# TYPE fletcher_tokenizer_texts_total counter" in text
    assert "fletcher_tokenizer_texts_total 7.0" in text


@pytest.mark.parametrize(
    ("dtype", "code", "convert"),
    [
        ("float16", "<f2", lambda vector: vector.astype(np.float16)),
        ("int8", "i1", lambda vector: np.rint(vector / (np.abs(vector).max() / 127)).astype(np.int8)),
        ("ubinary", "u1", lambda vector: np.packbits(vector > 0)),
    ],
)
def test_vectors_have_the_requested_type(http: httpx.Client, dtype: str, code: str, convert: Any) -> None:
    plain = embed(http, input="ab", dtype=dtype, encoding_format="float").json()["data"][0]
    packed = embed(http, input="ab", dtype=dtype, encoding_format="base64").json()["data"][0]
    np.testing.assert_array_equal(plain["embedding"], convert(expected("ab")))
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed["embedding"]), code), convert(expected("ab")))
    assert plain.get("scale") == (pytest.approx(np.abs(expected("ab")).max() / 127) if dtype == "int8" else None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dtype": "int4"}, "dtype"),
        ({"overflow": "wrap"}, "overflow"),
        ({"overflow": "late"}, "overflow"),
        ({"window_tokens": 8}, "window_tokens"),
        ({"overflow": "windows", "window_tokens": 4096}, "window_tokens"),
        ({"overflow": "windows", "chunk_tokens": 8}, "chunk_tokens"),
        ({"input": [5, 6], "overflow": "windows"}, "overflow"),
    ],
)
def test_errors_name_invalid_options(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    answer = embed(http, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
