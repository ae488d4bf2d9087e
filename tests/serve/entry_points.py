"""All entry points that take texts and embedding options. Each is a function from texts and options to vectors.

If an entry point rejects them, its function raises `RefusedError` with the message.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pyarrow.parquet as pq
import pytest

from fletcher.runtime import Embeddings, Encoder
from fletcher.runtime.commandline.console import run
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.commands.cli import app
from fletcher.serve.server import Server

from ..doubles.longbow import LongbowDouble

__all__ = ["ENTRY_POINTS", "EntryPoint", "RefusedError", "World"]

SECONDS = 30.0


class RefusedError(Exception):
    """An entry point rejected the options or the texts."""


@dataclass(frozen=True, slots=True)
class World:
    """Model, server and folders that the entry points use.

    Attributes:
        folder: folder of the test.
        artifact: artifact folder of the model.
        encoder: the loaded model.
        server: server of the model, with Longbow.
        longbow: the database that the server and jobs write to.
        capture: output of commands.
    """

    folder: Path
    artifact: Path
    encoder: Encoder
    server: Server
    longbow: LongbowDouble
    capture: pytest.CaptureFixture[str]

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Send a request. Raise `RefusedError` if it is rejected."""
        answer = httpx.post(f"{self.server.addresses.http}{path}", timeout=SECONDS, **body)
        if answer.status_code != 200:
            assert answer.status_code in (400, 413, 422), (answer.status_code, answer.text)
            raise RefusedError(answer.text)
        return answer

    def command(self, *words: object) -> None:
        """Run a command of `fletcher-serve`. Raise `RefusedError` with its message if it fails."""
        with pytest.raises(SystemExit) as stopped:
            run(app, [*map(str, words)])
        errors = " ".join(self.capture.readouterr().err.replace("│", " ").split())
        if stopped.value.code != 0:
            assert "defect" not in errors and "Traceback" not in errors, errors
            raise RefusedError(errors)

    def flight(self, call: Callable[[Any], Any]) -> Any:
        """Call Flight. Raise `RefusedError` if the call is rejected."""
        with fl.connect(self.server.addresses.flight) as client:
            try:
                return call(client)
            except (pa.ArrowException, fl.FlightError) as error:
                raise RefusedError(str(error)) from error


Options = Mapping[str, Any]
Vectors = tuple[Any, Any]  # (n, elements), and the scales of int8 vectors or None


def of_embeddings(embeddings: Embeddings) -> Vectors:
    return embeddings.vectors, embeddings.scales


def of_table(table: Any) -> Vectors:
    """Return the vectors of an Arrow table."""
    kind = table.schema.field("vector").type
    if pa.types.is_fixed_size_binary(kind):
        vectors = np.array([list(row) for row in table["vector"].to_pylist()], np.uint8)
    else:
        column = table["vector"].combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
    return vectors, np.array(table["scale"], np.float32) if "scale" in table.schema.names else None


def of_items(items: list[Any], dtype: str) -> Vectors:
    """Return the vectors of JSON objects."""
    kind = "uint8" if dtype == "ubinary" else dtype
    scales = [item.get("scale") for item in items]
    vectors = np.array([item["embedding"] for item in items]).astype(kind)
    return vectors, None if None in scales else np.array(scales, np.float32)


def flags(options: Options) -> list[str]:
    """Return options as words of a command line."""
    words = []
    for name, value in options.items():
        name = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return words


def encoder_embed(world: World, texts: Sequence[str], options: Options) -> Vectors:
    return of_embeddings(world.encoder.embed(texts, **options))


def encoder_stream(world: World, texts: Sequence[str], options: Options) -> Vectors:
    (embeddings,) = world.encoder.stream([texts], EmbedOptions(**options))
    return of_embeddings(embeddings)


def command_embed(world: World, texts: Sequence[str], options: Options) -> Vectors:
    (world.folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    output = world.folder / "vectors.parquet"
    places = ["-i", world.folder / "texts.txt", "-o", output, "--force"]
    world.command("embed", world.artifact, *places, "--provider", "mlas", *flags(options))
    return of_table(pq.read_table(output))


def command_ingest(world: World, texts: Sequence[str], options: Options) -> Vectors:
    (world.folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    dataset = f"job-{world.folder.name}"
    files = ["--journal", world.folder / "journal", "--dead-letters", world.folder / "failed.jsonl"]
    into = ["--longbow", world.longbow.url, "--dataset", dataset, "--allow-unnormalized", *files]
    source = ["-i", world.folder / "texts.txt", "--provider", "mlas"]
    world.command("ingest", world.artifact, *source, *into, *flags(options))
    return stored(world, dataset, texts)


def stored(world: World, dataset: str, texts: Sequence[str]) -> Vectors:
    """Return the vectors of a Longbow dataset, in the order of the texts."""
    rows = world.longbow.store.live(dataset).drop_columns(["timestamp"]).to_pylist()
    vectors = {row["text"]: row["vector"] for row in rows}
    assert len(rows) == len(texts)
    return np.array([vectors[text] for text in texts], np.float32), None


def openai(world: World, texts: Sequence[str], options: Options) -> Vectors:
    answer = world.post("/v1/embeddings", json={"model": "tiny", "input": [*texts], **options})
    return of_items(answer.json()["data"], options.get("dtype", "float32"))


def openai_base64(world: World, texts: Sequence[str], options: Options) -> Vectors:
    body = {"model": "tiny", "input": [*texts], "encoding_format": "base64", **options}
    dtype = options.get("dtype", "float32")
    items = world.post("/v1/embeddings", json=body).json()["data"]
    kind = np.dtype("uint8" if dtype == "ubinary" else dtype).newbyteorder("<")
    for item in items:
        item["embedding"] = np.frombuffer(base64.b64decode(item["embedding"]), kind)
    return of_items(items, dtype)


def openai_lines(world: World, texts: Sequence[str], options: Options) -> Vectors:
    body = {"model": "tiny", "input": [*texts], **options}
    answer = world.post("/v1/embeddings", json=body, headers={"accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return of_items([line for line in lines if "embedding" in line], options.get("dtype", "float32"))


def tei(world: World, texts: Sequence[str], options: Options) -> Vectors:
    answer = world.post("/embed", json={"inputs": [*texts], "detail": True, "normalize": False, **options})
    return of_items(answer.json(), options.get("dtype", "float32"))


def cohere(world: World, texts: Sequence[str], options: Options) -> Vectors:
    names = {"dtype": "embedding_types", "dimensions": "output_dimension"}
    body = {names.get(name, name): value for name, value in options.items()}
    kind = body.get("embedding_types", "float").replace("float32", "float")
    body = {"model": "tiny", "input_type": "search_document", "texts": [*texts], **body, "embedding_types": [kind]}
    answer = world.post("/v2/embed", json=body).json()
    scales = answer["meta"].get("scales")
    vectors = np.array(answer["embeddings"][kind]).astype({"float": "float32", "ubinary": "uint8"}.get(kind, kind))
    return vectors, None if scales is None else np.array(scales, np.float32)


def query(options: Options) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def encode(world: World, texts: Sequence[str], options: Options) -> Vectors:
    rows = cbor2.loads(world.post("/encode", params=query(options), content=cbor2.dumps([*texts])).content)
    dtype = options.get("dtype", "float32")
    if dtype == "ubinary":
        return np.array([list(row) for row in rows], np.uint8), None
    return np.array(rows).astype(dtype), None


def encode_arrow(world: World, texts: Sequence[str], options: Options) -> Vectors:
    table, sink = pa.table({"text": [*texts]}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue().to_pybytes()
    answer = world.post("/encode/arrow", params=query(options), content=body)
    return of_table(pa.ipc.open_stream(answer.content).read_all())


def flight_exchange(world: World, texts: Sequence[str], options: Options) -> Vectors:
    batch = pa.RecordBatch.from_pydict({"text": [*texts]})

    def call(client: Any) -> Any:
        descriptor = fl.FlightDescriptor.for_command(json.dumps(options).encode())
        writer, reader = client.do_exchange(descriptor, fl.FlightCallOptions(timeout=SECONDS))
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            return reader.read_all()

    return of_table(world.flight(call))


def flight_get(world: World, texts: Sequence[str], options: Options) -> Vectors:
    ticket = fl.Ticket(json.dumps({"texts": [*texts], **options}).encode())
    return of_table(world.flight(lambda client: client.do_get(ticket).read_all()))


def flight_put(world: World, texts: Sequence[str], options: Options) -> Vectors:
    assert not options, "the descriptor of DoPut is the path of a dataset: it holds no options"
    dataset = f"put-{world.folder.name}"

    def call(client: Any) -> Any:
        table = pa.table({"text": [*texts]})
        writer, reader = client.do_put(fl.FlightDescriptor.for_path("longbow", dataset), table.schema)
        writer.write_table(table)
        acknowledgment = reader.read()
        writer.close()
        return acknowledgment

    world.flight(call)
    return stored(world, dataset, texts)


def http_ingest(world: World, texts: Sequence[str], options: Options) -> Vectors:
    dataset = f"http-{world.folder.name}"
    world.post("/v1/ingest", json={"dataset": dataset, "documents": [*texts], **options})
    return stored(world, dataset, texts)


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """An entry point.

    Attributes:
        call: embeds texts with options.
        options: True if it takes options.
        dtypes: element types that it supports.
        names: its names of options, if they differ from those of `EmbedOptions`.
        widens: True if vectors of other types are returned as float32, multiplied by their scales.
        unit: True if it accepts only vectors of length 1.
        scales: True if the answer has the scales of int8 vectors.
    """

    call: Callable[[World, Sequence[str], Options], Vectors]
    options: bool = True
    dtypes: tuple[str, ...] = ("float32", "float16", "int8", "ubinary")
    names: Mapping[str, str] = field(default_factory=dict)
    widens: bool = False
    unit: bool = False
    scales: bool = True


NUMBERS = ("float32", "float16", "int8")

#: All entry points. Longbow stores only float32, so `ubinary` is rejected there. Cohere's API does not have float16.
ENTRY_POINTS = {
    "Encoder.embed": EntryPoint(encoder_embed),
    "Encoder.stream": EntryPoint(encoder_stream),
    "fletcher-serve embed": EntryPoint(command_embed),
    "fletcher-serve ingest": EntryPoint(command_ingest, dtypes=NUMBERS, widens=True),
    "/v1/embeddings": EntryPoint(openai),
    "/v1/embeddings, base64": EntryPoint(openai_base64),
    "/v1/embeddings, NDJSON": EntryPoint(openai_lines),
    "/embed": EntryPoint(tei),
    "/v2/embed": EntryPoint(
        cohere,
        dtypes=("float32", "int8", "ubinary"),
        names={"dtype": "embedding_types", "dimensions": "output_dimension"},
    ),
    "/encode": EntryPoint(encode, scales=False),
    "/encode/arrow": EntryPoint(encode_arrow),
    "DoExchange": EntryPoint(flight_exchange),
    "DoGet": EntryPoint(flight_get),
    "/v1/ingest": EntryPoint(http_ingest, dtypes=NUMBERS, widens=True, unit=True),
    # The descriptor of DoPut is the path of a Longbow dataset. It does not have options.
    "DoPut": EntryPoint(flight_put, options=False, dtypes=("float32",), unit=True),
}
