"""Compressed answers: what clients accept, what is worth it, and that clients get the same content."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard

from fletcher.serve.http.coding.answers import choose
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder, expected

TEXTS = [f"text {index}" for index in range(1500)]


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"gzip", "gzip"),
        (b"zstd", "zstd"),
        (b"gzip, deflate, br, zstd", "zstd"),  # browsers
        (b"gzip, deflate", "gzip"),  # httpx
        (b"gzip;q=1.0, zstd;q=0.5", "gzip"),
        (b"gzip;q=0.5, zstd;q=0.500", "zstd"),
        (b"GZIP", "gzip"),
        (b"x-gzip", "gzip"),
        (b"*", "zstd"),
        (b"*;q=0.1, zstd;q=0", "gzip"),
        (b"gzip;q=0", None),
        (b"gzip; q=0.000", None),
        (b"identity", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip;q=0.8", "gzip"),
        (b"identity;q=0, gzip", "gzip"),
        (b"br, deflate", None),
        (b"", None),
        (b"gzip;q=nonsense", None),
        (b"gzip;q=2", None),
        (b", ;q=1,,", None),
    ],
)
def test_the_coding_is_the_one_that_the_client_prefers(accept: bytes, coding: str | None) -> None:
    """Examples and rules of RFC 9110, section 12.5.3."""
    assert choose(accept, "text") == coding


def test_bytes_that_do_not_shrink_are_left_alone() -> None:
    assert choose(b"gzip", "base64") is None  # a quarter, for which gzip takes ten times as long as zstd
    assert choose(b"gzip, zstd", "base64") == "zstd"
    assert choose(b"gzip, zstd", "raw") is None


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    options = ServerOptions(http="127.0.0.1:0", flight="off")
    with Server(FakeEncoder(), options) as server, httpx.Client(base_url=server.addresses.http or "") as client:
        client.headers["accept-encoding"] = "identity"
        yield client


def raw(http: httpx.Client, path: str, body: Any, **headers: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the undecoded body of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with http.stream("POST", path, json=body, headers=named) as answer:
        assert answer.status_code == 200
        return dict(answer.headers), b"".join(answer.iter_raw())


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "fake-model", "input": TEXTS}),
        ("/embed", {"inputs": TEXTS[:512], "detail": True}),
    ],
)
def test_a_large_answer_is_compressed_and_has_the_same_content(
    http: httpx.Client, path: str, body: Any, coding: str
) -> None:
    headers, plain = raw(http, path, body)
    assert "content-encoding" not in headers
    headers, small = raw(http, path, body, accept_encoding=f"{coding}, br")
    assert headers["content-encoding"] == coding
    assert headers["vary"] == "accept-encoding"
    assert int(headers["content-length"]) == len(small) < len(plain) / 2
    assert (gzip.decompress if coding == "gzip" else zstandard.decompress)(small) == plain


def test_a_small_answer_is_not_compressed(http: httpx.Client) -> None:
    body = {"model": "fake-model", "input": "ab"}
    headers, _ = raw(http, "/v1/embeddings", body, accept_encoding="gzip, zstd")
    assert "content-encoding" not in headers


def test_base64_and_bytes_are_not_compressed_with_gzip(http: httpx.Client) -> None:
    for kind in ("base64", "bytes"):
        body = {"model": "fake-model", "input": TEXTS, "encoding_format": kind}
        headers, _ = raw(http, "/v1/embeddings", body, accept_encoding="gzip")
        assert "content-encoding" not in headers


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_the_lines_of_a_stream_are_compressed_one_after_the_other(http: httpx.Client, coding: str) -> None:
    body = {"model": "fake-model", "input": TEXTS[:200]}
    accept = {"accept": "application/x-ndjson", "accept-encoding": coding}
    with http.stream("POST", "/v1/embeddings", json=body, headers=accept) as answer:
        assert answer.headers["content-encoding"] == coding
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert len(lines) == 201 and lines[-1]["object"] == "end"
    assert [line["embedding"] for line in lines[:-1]] == [expected(text).tolist() for text in TEXTS[:200]]


def test_the_first_lines_of_a_compressed_stream_are_readable_before_the_last_ones_are_computed() -> None:
    encoder = FakeEncoder(workers=1)
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        host, _, port = (server.addresses.http or "").removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            content = json.dumps({"model": "fake-model", "input": TEXTS[:500]}).encode()
            head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n"
            head += "accept-encoding: zstd\r\n"
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            received = b""
            while b"\r\n\r\n" not in received or len(received.split(b"\r\n\r\n", 1)[1]) < 1000:
                received += connection.recv(1 << 16)
        rest = received.split(b"\r\n\r\n", 1)[1]
        size, _, chunk = rest.partition(b"\r\n")
        reader = zstandard.ZstdDecompressor().decompressobj()
        lines = reader.decompress(chunk[: int(size, 16)]).splitlines()
        assert json.loads(lines[0])["embedding"] == expected(TEXTS[0]).tolist()
        encoder.gate.set()


@pytest.mark.parametrize(("limit", "coded"), [("off", False), ("1", True), ("1GiB", False)])
def test_the_size_from_which_answers_are_compressed_is_an_option(limit: str, coded: bool) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", compress_above=limit)
    with Server(FakeEncoder(), options) as server, httpx.Client(base_url=server.addresses.http or "") as http:
        answer = http.post("/v1/embeddings", json={"model": "fake-model", "input": "ab"})
        assert ("content-encoding" in answer.headers) is coded
        assert np.array_equal(answer.json()["data"][0]["embedding"], expected("ab"))
