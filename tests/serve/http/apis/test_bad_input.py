"""Invalid input: its status, and its error in the shape of the API."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pyarrow as pa
import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder

BOMB = gzip.compress(b" " * (4 << 20))
MAX_ITEMS, MAX_BODY, BODY_SECONDS = 4, 20_000, 0.3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    options = ServerOptions(
        http="127.0.0.1:0",
        flight="off",
        max_body=MAX_BODY,
        body_seconds=BODY_SECONDS,
        max_items=MAX_ITEMS,
        drain_seconds=5,
    )
    with Server(FakeEncoder(), options) as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(server.addresses.http), timeout=10) as client:
        yield client


def openai(body: Any) -> str:
    """Return the message of an OpenAI error: `{"error": {"message", "type", "param", "code"}}`."""
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


def tei(body: Any) -> str:
    """Return the message of a TEI error: `{"error", "error_type"}` (router/src/http/types.rs)."""
    assert body.keys() == {"error", "error_type"}
    assert body["error_type"] in {"Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"}
    return str(body["error"])


def cohere(body: Any) -> str:
    """Return the message of a Cohere error: `{"message", "id"}`."""
    assert body.keys() == {"message", "id"}
    return str(body["message"])


#: For each route: the shape of its errors, a valid body, the field of its texts, and the status of an invalid field.
ROUTES: dict[str, tuple[Callable[[Any], str], dict[str, Any], str, int]] = {
    "/v1/embeddings": (openai, {"model": "fake-model", "input": ["ab"]}, "input", 400),
    "/embed": (tei, {"inputs": ["ab"]}, "inputs", 422),
    "/tokenize": (tei, {"inputs": ["ab"]}, "inputs", 422),
    "/v2/embed": (cohere, {"model": "fake", "input_type": "search_query", "texts": ["ab"]}, "texts", 400),
}
routes = pytest.mark.parametrize("route", ROUTES)


def refused(route: str, answer: httpx.Response, status: int, words: str) -> None:
    """Check the status of an answer, the shape of its error, and its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert words in ROUTES[route][0](answer.json())


@routes
def test_valid_bodies_are_accepted(http: httpx.Client, route: str) -> None:
    assert http.post(route, json=ROUTES[route][1]).status_code == 200


@routes
@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"nan"])
def test_not_json(http: httpx.Client, route: str, body: bytes) -> None:
    answer = http.post(route, content=body)
    # An error for invalid JSON does not name a field. TEI itself returns 400 for it.
    refused(route, answer, 400, "not valid JSON")


@routes
def test_an_empty_body(http: httpx.Client, route: str) -> None:
    refused(route, http.post(route, content=b""), 400, "the body is empty")


@routes
@pytest.mark.parametrize(
    "half",
    ["\\ud83d", "a \\ud83d b", "\\ude00", "\\ud83d\\ud83d\\ude00", "\\ud83d\\u0041", "\\uD83D"],
)
def test_half_of_an_emoji_is_named(http: httpx.Client, route: str, half: str) -> None:
    """JavaScript's `slice` and `JSON.stringify` leave such strings."""
    _, valid, field, _ = ROUTES[route]
    body = json.dumps(valid | {field: ["whole \U0001f600", "HALF", "another"]}).replace("HALF", half)
    answer = http.post(route, content=body.encode())
    refused(route, answer, ROUTES[route][3], f"{field}[1]: a lone surrogate")
    if route == "/v1/embeddings":
        assert answer.json()["error"]["param"] == "input[1]"


@routes
@pytest.mark.parametrize("body", [b"[]", b'"ab"', b"[" * 5000, b"null"])
def test_json_that_is_not_an_object(http: httpx.Client, route: str, body: bytes) -> None:
    refused(route, http.post(route, content=body), 400, "the body: Expected `object`")


@routes
@pytest.mark.parametrize("value", [1, None, {}, [1.5], ["a", 1], [["a"]], True])
def test_wrong_types(http: httpx.Client, route: str, value: Any) -> None:
    _, body, field, status = ROUTES[route]
    refused(route, http.post(route, json=body | {field: value}), status, field)


@routes
def test_too_many_items(http: httpx.Client, route: str) -> None:
    _, body, field, _ = ROUTES[route]
    answer = http.post(route, json=body | {field: ["ab"] * (MAX_ITEMS + 1)})
    refused(route, answer, 413 if ROUTES[route][0] is tei else 400, f"{MAX_ITEMS + 1}")


@routes
def test_no_items(http: httpx.Client, route: str) -> None:
    _, body, field, _ = ROUTES[route]
    refused(route, http.post(route, json=body | {field: []}), 400, field)


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "/tokenize"])  # /tokenize never truncates
def test_too_long(http: httpx.Client, route: str) -> None:
    shape, body, field, _ = ROUTES[route]
    refuse: dict[Any, dict[str, Any]] = {
        openai: {"overflow": "refuse"},
        tei: {"truncate": False},
        cohere: {"truncate": "NONE"},
    }
    answer = http.post(route, json=body | {field: ["ab", "a" * 100]} | refuse[shape])
    refused(route, answer, 413 if shape is tei else 400, "takes at most 16")


@routes
def test_unknown_model(http: httpx.Client, route: str) -> None:
    refused(route, http.post(route, json=ROUTES[route][1] | {"model": "gpt"}), 404, "'gpt' is not served here")


@routes
def test_unknown_field(http: httpx.Client, route: str) -> None:
    _, body, _, status = ROUTES[route]
    refused(route, http.post(route, json=body | {"color": "blue"}), status, "color")


@pytest.mark.parametrize(
    ("route", "changes", "words"),
    [
        ("/v1/embeddings", {"dimensions": 5}, "dimensions is 5; "),
        ("/v1/embeddings", {"input_type": "poem"}, "input_type is 'poem'; "),
        ("/v2/embed", {"output_dimension": 5}, "output_dimension is 5; "),
        ("/v2/embed", {"input_type": "poem"}, "input_type is 'poem'; "),
        ("/v2/embed", {"texts": None, "inputs": []}, "inputs has 0 items; "),
        ("/embed", {"dimensions": 5}, "dimensions is 5; "),
        ("/embed", {"prompt_name": "poem"}, "prompt_name is 'poem'; "),
        ("/embed", {"prompt_name": "input_type"}, "prompt_name is 'input_type'; "),
        ("/embed", {"prompt_name": "query", "input_type": "poem"}, "input_type is 'poem'; "),
        ("/tokenize", {"prompt_name": "poem"}, "prompt_name is 'poem'; "),
        ("/tokenize", {"input_type": "poem"}, "input_type is 'poem'; "),
        ("/similarity", {"parameters": {"prompt_name": "poem"}}, "parameters.prompt_name is 'poem'; "),
        ("/similarity", {"parameters": {"input_type": "poem"}}, "parameters.input_type is 'poem'; "),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_an_error_names_the_field_of_the_request(
    http: httpx.Client, route: str, changes: dict[str, Any], words: str, accept: str
) -> None:
    sentences = {"inputs": {"source_sentence": "ab", "sentences": ["cd"]}}
    shape, body, _, status = (tei, sentences, "", 422) if route == "/similarity" else ROUTES[route]
    answer = http.post(route, json=body | changes, headers={"accept": accept})
    assert answer.status_code == status, answer.text
    assert shape(answer.json()).startswith(words)
    if shape is openai:
        assert answer.json()["error"]["param"] == next(iter(changes))


@routes
def test_invalid_gzip_and_gzip_bombs(http: httpx.Client, route: str) -> None:
    coded = {"content-encoding": "gzip"}
    refused(
        route,
        http.post(route, content=b"{}", headers=coded),
        400,
        "the body is not gzip, but its Content-Encoding is gzip",
    )
    refused(route, http.post(route, content=BOMB, headers=coded), 413, "when decompressed")
    refused(route, http.post(route, content=b"{}", headers={"content-encoding": "br"}), 415, "'br'")


@routes
def test_bodies_that_are_too_large(http: httpx.Client, route: str) -> None:
    refused(route, http.post(route, content=b" " * (MAX_BODY + 1)), 413, f"the limit is {MAX_BODY}")
    chunked = http.post(route, content=iter([b" " * MAX_BODY, b" "]))
    refused(route, chunked, 413, f"more than {MAX_BODY} bytes")


@routes
def test_slow_bodies(server: Server, route: str) -> None:
    port = int(str(server.addresses.http).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(f"POST {route} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{{".encode())
        received = b""
        while b"}" not in received:
            part = slow.recv(65536)
            assert part, received
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert "did not arrive within 0.3 s" in ROUTES[route][0](json.loads(body))


@pytest.mark.parametrize("value", ["base65", "hex", 1])
def test_unknown_encodings(http: httpx.Client, value: Any) -> None:
    body = ROUTES["/v1/embeddings"][1] | {"encoding_format": value}
    refused("/v1/embeddings", http.post("/v1/embeddings", json=body), 400, "encoding_format")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/encode", b""),
        ("/encode", b"\xff"),
        ("/encode", b"\xa1\x61a\x01"),  # a map
        ("/encode", b"\x81\x01"),  # an array of a number
        ("/encode/arrow", b"no stream"),
        ("/encode/arrow", pa.schema({"page": pa.int64()}).serialize().to_pybytes()),
    ],
)
def test_invalid_binary_bodies(http: httpx.Client, route: str, body: bytes) -> None:
    answer = http.post(route, content=body)
    assert answer.status_code == 400, answer.text
    assert openai(answer.json())


#: Bodies with a text that is too long at an index, and the name of the text in the message.
ITEMS: list[tuple[str, dict[str, Any], str]] = [
    (
        "/v1/embeddings",
        {"model": "fake", "input": ["a", "b", "x" * 20], "overflow": "refuse"},
        "input[2] has 22 tokens",
    ),
    ("/v1/embeddings", {"model": "fake", "input": [[1, 5, 2], [1, 500, 2]]}, "input[1] holds the token id 500"),
    ("/embed", {"inputs": ["a", "x" * 20], "truncate": False}, "inputs[1] has 22 tokens"),
    ("/embed", {"inputs": [[1, 500, 2]]}, "inputs[0] holds the token id 500"),
    (
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["b", "x" * 20]}, "parameters": {"truncate": False}},
        "inputs.sentences[1] has 22 tokens",
    ),
    (
        "/similarity",
        {"inputs": {"source_sentence": "x" * 20, "sentences": ["b"]}, "parameters": {"truncate": False}},
        "inputs.source_sentence has 22 tokens",
    ),
    (
        "/v2/embed",
        {"model": "fake", "input_type": "search_query", "texts": ["a", "x" * 20], "truncate": "NONE"},
        "texts[1] has",
    ),
    ("/v1/embed", {"model": "fake", "texts": ["a", "x" * 20], "truncate": "NONE"}, "texts[1] has 22 tokens"),
    ("/api/embed", {"model": "fake", "input": ["a", "x" * 20], "truncate": False}, "input[1] has 22 tokens"),
]


@pytest.mark.parametrize(("path", "body", "words"), ITEMS)
def test_messages_name_the_item(http: httpx.Client, path: str, body: dict[str, Any], words: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code in (400, 413, 422)
    error = answer.json().get("error", answer.json().get("message"))
    message = error if isinstance(error, str) else error["message"]
    assert message.startswith(words)
    if path == "/v1/embeddings":
        assert answer.json()["error"]["param"] == words.split()[0]


def test_a_line_of_a_stream_names_the_item_in_the_request() -> None:
    texts = ["a"] * 200 + ["x" * 20]
    body = {"model": "fake", "input": texts, "overflow": "refuse"}
    with (
        Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server,
        httpx.Client(base_url=str(server.addresses.http), timeout=10) as client,
    ):
        answer = client.post("/v1/embeddings", json=body, headers={"accept": "application/x-ndjson"})
    error = json.loads(answer.text.splitlines()[-1])["error"]
    assert error["param"] == "input[200]"
    assert error["message"].startswith("input[200] has 22 tokens")
