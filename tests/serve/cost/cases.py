"""Requests of every route and option, from small to the limit, made from the OpenAPI document and the options of Flight."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

import cbor2
import pyarrow as pa

__all__ = ["CHOSEN", "Case", "cases", "flight_options"]

Schema = Mapping[str, Any]

#: Sizes of a text in characters, and numbers of texts of 254 tokens. A body has at most 32 MiB.
LENGTHS: Final = (1 << 16, 4 << 20, 16 << 20)
COUNTS: Final = (128, 512, 2048)

#: Options that do not change what a request costs, or that name something the server does not have.
LEFT_OUT: Final = frozenset({"model", "user", "dataset", "path"})

#: Routes that change the server, or need Longbow, which the contract's server does not have.
SKIPPED: Final = ("/admin/", "/v1/ingest")

#: Values of an integer option.
INTEGERS: Final = (1, 253, 1 << 30)

#: Names of the cases that `make test` runs: those that stopped or killed a server without the bounds.
CHOSEN: Final = (
    "/encode decimal fraction of 400 kB",
    "/encode map of colliding keys",
    "/tokenize inputs one of 4194304",
    "/embed_all inputs 512 texts",
    "/embed inputs one of 65536, windows that overlap by 253",
    "/embed inputs one of 65536, chunks of 1",
    "/rerank query of 262144, 128 texts",
    "/encode/arrow zstd of 268435456",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A request.

    Attributes:
        name: name for messages.
        path: path with its query.
        make: returns the body.
        media_type: its content type.
    """

    name: str
    path: str
    make: Callable[[], bytes]
    media_type: str = "application/json"


def cases(document: Schema, embedder: str, reranker: str) -> Iterator[Case]:
    """Yield the requests of all routes.

    Args:
        document: the OpenAPI document of the server.
        embedder, reranker: names of its models.
    """
    yield from _critical(embedder)
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if path.startswith(SKIPPED) or not content:
            continue
        if (described := content.get("application/json")) is not None:
            schema = _resolve(document, described["schema"])
            model = reranker if "rank" in path or "score" in path else embedder
            example = described["example"]
            if "model" in example:
                example = example | {"model": model}
            yield from _json(path.replace("{model}", model), schema, example)
        else:
            names = [each["name"] for each in methods["post"]["parameters"] if each["in"] == "query"]
            for media_type in content:
                yield from _binary(path, media_type, names)


def _critical(embedder: str) -> Iterator[Case]:
    """Yield requests that no schema describes: tags and maps of CBOR, compressed buffers, pairs of options."""
    # Tag 4, an array of the exponent -327681 and a bignum of 400,000 bytes.
    fraction = b"\xc4\x82\x3a\x00\x05\x00\x00\xc2\x5a" + (400_000).to_bytes(4, "big") + b"\xff" * 400_000
    yield Case("/encode decimal fraction of 400 kB", "/encode", partial(bytes, fraction), "application/cbor")
    # Python's hash of an integer is its remainder by 2**61 - 1.
    keys = [(index * ((1 << 61) - 1)).to_bytes(10, "big") for index in range(1, 30_000)]
    colliding = b"\xb9" + len(keys).to_bytes(2, "big") + b"".join(b"\xc2\x4a" + key + b"\x00" for key in keys)
    yield Case("/encode map of colliding keys", "/encode", partial(bytes, colliding), "application/cbor")
    for form in ("zstd", "lz4"):
        for size in (1 << 24, 1 << 28):
            yield Case(f"/encode/arrow {form} of {size}", "/encode/arrow", partial(_large, size, form), _ARROW)
    text = "a " * 32_768
    for name, options in (
        ("windows that overlap by 253", {"overflow": "windows", "overlap_tokens": 253}),
        ("windows of 3 tokens", {"overflow": "windows", "window_tokens": 3, "overlap_tokens": 0}),
        ("chunks of 1", {"overflow": "late", "chunk_tokens": 1}),
    ):
        yield Case(
            f"/embed inputs one of 65536, {name}",
            "/embed",
            partial(_dump, {"inputs": text, "model": embedder} | options),
        )
    pairs_body = {"query": "a " * 131_072, "texts": ["a text"] * 128}
    yield Case("/rerank query of 262144, 128 texts", "/rerank", partial(_dump, pairs_body))


def _json(path: str, schema: Schema, example: Mapping[str, Any]) -> Iterator[Case]:
    """Yield the requests of a route that takes JSON: its texts at every size, then every option with middle sizes."""
    base = {name: value for name, value in example.items() if name not in ("top_n",)}
    texts = [name for name, value in example.items() if name not in LEFT_OUT and _holds_text(value)]
    for name in texts:
        for length in LENGTHS:
            yield Case(
                f"{path} {name} one of {length}", path, partial(_dump, base | {name: _sized(example[name], 1, length)})
            )
        yield Case(
            f"{path} {name} one word", path, partial(_dump, base | {name: _sized(example[name], 1, 4 << 20, "aa")})
        )
        if isinstance(example[name], dict | list) or _takes_list(schema, name):
            for count in COUNTS:
                body = base | {name: _sized(example[name], count, 508)}
                yield Case(f"{path} {name} {count} texts", path, partial(_dump, body))
            yield Case(f"{path} {name} of a million texts", path, partial(_dump, base | {name: ["a"] * 1_000_000}))
            yield Case(f"{path} {name} of 8 million ids", path, partial(_dump, base | {name: [[5] * 4_000] * 2_000}))
    middle = base | {name: _sized(example[name], 64, 1024) for name in texts if isinstance(example[name], list)}
    for name, described in schema.get("properties", {}).items():
        if name in base or name in LEFT_OUT:
            continue
        for value in _values(described):
            yield Case(f"{path} {name}={value}", path, partial(_dump, middle | {name: value}))
            if isinstance(value, int) and "overflow" in schema["properties"]:
                for overflow in ("windows", "late"):
                    cut = {name: value, "overflow": overflow}
                    yield Case(f"{path} {name}={value} overflow={overflow}", path, partial(_dump, middle | cut))


def _binary(path: str, media_type: str, names: list[str]) -> Iterator[Case]:
    """Yield the requests of a route that takes CBOR or Arrow; its options are in the query."""
    for length in LENGTHS:
        yield Case(
            f"{path} one of {length}", path, partial(_binary_body, media_type, ["a " * (length // 2)]), media_type
        )
    for count in (*COUNTS, 1_000_000):
        texts = ["a" * 254 if count < 10_000 else "a"] * count
        yield Case(f"{path} {count} texts", path, partial(_binary_body, media_type, texts), media_type)
    for name in names:
        for value in (*INTEGERS, "late", "windows", "float16", "ubinary", "zstd", "true"):
            for overflow in ({}, {"overflow": "windows"}, {"overflow": "late"}):
                query = urlencode(overflow | {name: value})
                body = partial(_binary_body, media_type, ["a " * 1024] * 32)
                yield Case(f"{path}?{query}", f"{path}?{query}", body, media_type)


_ARROW: Final = "application/vnd.apache.arrow.stream"


def _binary_body(media_type: str, texts: list[str]) -> bytes:
    return _stream(pa.array(texts), None) if media_type == _ARROW else cbor2.dumps(texts)


def _large(size: int, compression: str) -> bytes:
    return _stream(pa.array(["a" * size], pa.large_string()), compression)


def _stream(texts: Any, compression: str | None) -> bytes:
    sink = io.BytesIO()
    batch = pa.RecordBatch.from_arrays([texts], ["text"])
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _holds_text(value: object) -> bool:
    if isinstance(value, str):
        return " " in value
    if isinstance(value, dict):
        return any(map(_holds_text, value.values()))
    return isinstance(value, list) and any(map(_holds_text, value))


def _sized(example: Any, count: int, length: int, letters: str = "a ") -> Any:
    """Return a value of the shape of an example with so many texts of so many characters."""
    text = letters * (length // 2)
    match example:
        case dict():
            return {name: _sized(value, count, length, letters) for name, value in example.items()}
        case [[*_], *_]:
            return [[text]] * count
        case list():
            return [text] * count
    return text if count == 1 else [text] * count


def _takes_list(schema: Schema, name: str) -> bool:
    return '"array"' in json.dumps(schema["properties"][name])


def _values(described: Any) -> Iterator[object]:
    """Yield values of an option: all of its names, both truth values, and small and large numbers."""
    if isinstance(described, list):
        for part in described:
            yield from _values(part)
    elif isinstance(described, dict):
        yield from described.get("enum", ())
        if described.get("type") == "boolean":
            yield from (True, False)
        if described.get("type") == "integer":
            yield from INTEGERS
        for word in ("anyOf", "oneOf"):
            yield from _values(described.get(word, []))


def _resolve(document: Schema, schema: Schema) -> Schema:
    resolved: Schema = (
        document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    )
    return resolved


def flight_options(embedder: str) -> Iterator[tuple[str, bytes]]:
    """Yield options of Flight as JSON, with their names: every value that changes the cost."""
    for overflow in ("truncate", "windows", "late"):
        for options in ({}, {"overlap_tokens": 253}, {"window_tokens": 3}, {"chunk_tokens": 1}, {"dtype": "ubinary"}):
            value = {"overflow": overflow, "model": embedder} | options
            yield str(value), _dump(value)


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
