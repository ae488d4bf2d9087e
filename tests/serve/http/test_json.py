"""Numbers in JSON: the fewest digits that read back as the same float32, on every route with vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Encoder, Encodings
from fletcher.serve.http.json import json_numbers, json_rows, short_floats
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder, expected

#: float32 values whose shortest digits are published: the limits of the format (IEEE 754), and those of numpy's own repr.
KNOWN = {
    1.17549435e-38: "1.1754944e-38",
    3.4028235e38: "3.4028235e38",
    1e-45: "1e-45",
    0.1: "0.1",
    16777216.0: "16777216.0",
}


def every_kind_of_float32() -> NDArray[np.float32]:
    """Return float32 values of all exponents and signs, without NaN and infinity."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    edges = np.array([0.0, -0.0, 1e-45, -1e-45, 1.17549435e-38, 3.4028235e38, 1.0, 0.1, 1 / 3], np.float32)
    return np.concatenate([edges, values[np.isfinite(values)]])


def test_float32_reads_back_bit_by_bit_with_the_digits_of_numpy() -> None:
    values = every_kind_of_float32()
    text = msgspec.json.encode(json_numbers(values))
    read = np.array(json.loads(text), np.float64).astype(np.float32)
    assert np.array_equal(read.view(np.uint32), values.view(np.uint32))
    # numpy's shortest repr has as many digits, whatever the form of the exponent.
    for ours, value in zip(text.decode()[1:-1].split(","), values[:5000], strict=False):
        digits = np.format_float_scientific(value, unique=True, trim="-").partition("e")[0]
        assert len(_digits(ours)) <= len(_digits(digits))


def _digits(number: str) -> str:
    return number.partition("e")[0].replace(".", "").replace("-", "").strip("0")


@pytest.mark.parametrize(("value", "digits"), KNOWN.items())
def test_known_digits(value: float, digits: str) -> None:
    assert float(msgspec.json.encode(json_numbers(np.array([value], np.float32))).decode()[1:-1]) == float(digits)
    assert repr(short_floats(np.array([value], np.float32))[0]) == repr(float(digits))


def test_short_floats_are_the_same_float32() -> None:
    values = every_kind_of_float32()
    read = np.array(json.loads(json.dumps(short_floats(values))), np.float64).astype(np.float32)
    assert np.array_equal(read.view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
def test_other_types_and_layouts_of_arrays(dtype: Any) -> None:
    values = np.arange(-6, 6).astype(dtype).reshape(3, 4)
    for array in (values, values.T, values[::2], values[:, 1:3], values[:0]):
        assert json.loads(msgspec.json.encode(json_numbers(array))) == array.tolist()
        assert json.loads(msgspec.json.encode(json_rows(array))) == array.tolist()


class _Thirds(FakeEncoder):
    """Encoder whose vectors have no short decimal fractions."""

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Return a third of the usual vectors."""
        return super().run(batch, output) / np.float32(3)


TEXTS = ["ab", "cd", "ef"]
VECTORS = np.stack([expected(text) / np.float32(3) for text in TEXTS])


def lines(answer: httpx.Response) -> Any:
    return [json.loads(line)["embedding"] for line in answer.text.splitlines()[:-1]]


#: Path, body, `Accept`, and the vectors in the answer.
ROUTES: list[tuple[str, dict[str, Any], str, Callable[[httpx.Response], Any]]] = [
    (
        "/v1/embeddings",
        {"model": "fake-model", "input": TEXTS},
        "*/*",
        lambda answer: [item["embedding"] for item in answer.json()["data"]],
    ),
    ("/v1/embeddings", {"model": "fake-model", "input": TEXTS}, "application/x-ndjson", lines),
    ("/embed", {"inputs": TEXTS, "normalize": False}, "*/*", lambda answer: answer.json()),
    ("/embed", {"inputs": TEXTS, "normalize": False}, "application/x-ndjson", lines),
    (
        "/embed",
        {"inputs": TEXTS, "normalize": False, "detail": True},
        "*/*",
        lambda answer: [item["embedding"] for item in answer.json()],
    ),
    (
        "/v2/embed",
        {"model": "fake-model", "input_type": "raw", "texts": TEXTS},
        "*/*",
        lambda answer: answer.json()["embeddings"]["float"],
    ),
]


@pytest.mark.parametrize(("path", "body", "accept", "vectors"), ROUTES)
def test_every_route_gives_the_shortest_digits(
    path: str, body: dict[str, Any], accept: str, vectors: Callable[[httpx.Response], Any]
) -> None:
    with Server(_Thirds(), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        answer = httpx.post(f"{server.addresses.http}{path}", json=body, headers={"accept": accept})
    read = np.array(vectors(answer), np.float64).astype(np.float32)
    assert np.array_equal(read.view(np.uint32), VECTORS.view(np.uint32))
    shortest = min(len(json.dumps(row.tolist())) for row in VECTORS)
    assert len(json.dumps(vectors(answer)[0])) < shortest * 0.8  # of Python's digits of the equal float64
    assert f"{VECTORS[0][0]!s}" in answer.text


def test_vectors_of_tokens_and_of_chunks_are_those_of_the_encoder(tiny_artifact: Path) -> None:
    text = "many words " * 100
    with Encoder.load(tiny_artifact, provider="mlas", cache=0) as encoder:
        windows = encoder.embed([text], overflow="windows").chunks
        assert windows is not None
        options = ServerOptions(http="127.0.0.1:0", flight="off", name="tiny")
        with Server(encoder, options) as server, httpx.Client(base_url=server.addresses.http or "", timeout=30) as http:
            answer = http.post("/v1/embeddings", json={"model": "tiny", "input": text, "overflow": "windows"})
            chunks = np.array([item["embedding"] for item in answer.json()["data"][0]["chunks"]], np.float32)
            tokens = http.post("/embed_all", json={"inputs": "a text"})
    assert np.array_equal(chunks, windows.vectors)
    assert all(len(number) <= 15 for number in tokens.text.replace("[", "").replace("]", "").split(","))
