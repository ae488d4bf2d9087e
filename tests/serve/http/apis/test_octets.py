"""`/v1/embeddings` as `application/octet-stream`: rows of raw values, and the counts in headers."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import DIMENSION, FakeEncoder, expected

TEXTS = ["ab", "cd", "a text that is much longer than the model takes"]


def ask(http_url: str, accept: str = "*/*", **fields: Any) -> httpx.Response:
    body = {"model": "fake-model", "input": TEXTS} | fields
    return httpx.post(f"{http_url}/v1/embeddings", json=body, headers={"accept": accept})


@pytest.mark.parametrize(
    ("accept", "fields"),
    [
        ("*/*", {"encoding_format": "bytes"}),
        ("application/octet-stream", {}),
        ("application/octet-stream", {"encoding_format": "base64"}),
        ("application/json;q=0.5, application/octet-stream", {}),
    ],
)
def test_the_body_is_the_rows_as_little_endian_float32(http_url: str, accept: str, fields: dict[str, Any]) -> None:
    answer = ask(http_url, accept, **fields)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    headers = answer.headers
    shape = int(headers["x-embedding-count"]), int(headers["x-embedding-dimension"])
    assert (shape, headers["x-embedding-dtype"]) == ((3, DIMENSION), "float32")
    assert headers["x-model"] == "fake-model"
    # Two special tokens and one for each character; the model takes 16.
    assert headers["x-tokens-seen"] == "4,4,16"
    assert headers["x-tokens-dropped"] == f"0,0,{len(TEXTS[2]) + 2 - 16}"
    assert headers["x-compute-tokens"] == "24"
    assert headers["x-truncated"] == "1"
    vectors = np.frombuffer(answer.content, "<f4").reshape(shape)
    assert np.array_equal(vectors, [expected(text) for text in TEXTS])


@pytest.mark.parametrize(("dtype", "name", "read"), [("float16", "float16", "<f2"), ("ubinary", "uint8", "u1")])
def test_other_types_of_elements(http_url: str, dtype: str, name: str, read: str) -> None:
    answer = ask(http_url, encoding_format="bytes", dtype=dtype)
    assert answer.headers["x-embedding-dtype"] == name
    vectors = np.frombuffer(answer.content, read).reshape(3, int(answer.headers["x-embedding-dimension"]))
    floats = np.stack([expected(text) for text in TEXTS])
    right = np.packbits(floats > 0, axis=1) if dtype == "ubinary" else floats.astype(np.float16)
    assert np.array_equal(vectors, right)


@pytest.mark.parametrize(
    ("accept", "fields", "field"),
    [
        ("*/*", {"dtype": "int8"}, "dtype"),  # the fake model's vectors have a scale each
        ("application/x-ndjson", {}, "encoding_format"),
    ],
)
def test_what_has_no_place_in_octets_is_refused(http_url: str, accept: str, fields: dict[str, Any], field: str) -> None:
    answer = ask(http_url, accept, encoding_format="bytes", **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_many_rows_have_a_total_instead_of_long_headers() -> None:
    """aiohttp and nginx accept headers of 8 KiB."""
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        answer = ask(str(server.addresses.http), encoding_format="bytes", input=["ab"] * 2048)
    assert answer.headers["x-compute-tokens"] == str(4 * 2048)
    assert "x-tokens-seen" not in answer.headers
    assert len(answer.content) == 2048 * DIMENSION * 4
