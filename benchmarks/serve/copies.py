"""Copies of a batch in the server: the allocations of each stage, and the owner of its result's memory.

    python benchmarks/serve/copies.py ARTIFACT [--texts 256] [--dtype float32]

Each stage runs separately, as the server calls it, under tracemalloc (numpy and Python report their allocations to it)
and Arrow's memory pool. `shares` says whether the result uses the memory of the input. Then a whole stream runs from a
client in another process against a server in this process, and the peak of Arrow's pool is reported. See
docs/explanation/copies.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from fletcher import Encoder
from fletcher.runtime import Embeddings
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.arrow.batches import output_schema, read_texts, with_vectors
from fletcher.serve.http.apis.openai.codec import encode_embeddings
from fletcher.serve.models.description import ModelDescription
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

TEXT = "The quick brown fox jumps over dog {:08}."


class Table:
    """`Table`: results of the measured stages."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def stage(self, name: str, work: Callable[[], Any], *, result: Callable[[Any], int], shares: Any = None) -> Any:
        """Run a stage, and record its allocations.

        Args:
            name: name of the stage.
            work: the stage.
            result: size of the result, bytes.
            shares: array whose memory the result may use; None if there is no such array.
        """
        work()  # so that one-time allocations are not counted
        pool = pa.default_memory_pool()
        arrow_before = pool.bytes_allocated()
        tracemalloc.start()
        value = work()
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        row = {
            "stage": name,
            "result_bytes": result(value),
            "python_held_bytes": held,
            "python_peak_bytes": peak,
            "arrow_bytes": pool.bytes_allocated() - arrow_before,
        }
        if shares is not None:
            row["shares"] = address_of(value) == address_of(shares)
        self.rows.append(row)
        return value

    def show(self) -> None:
        """Print the table."""
        print(f"{'stage':44} {'result':>10} {'held':>10} {'peak':>10} {'Arrow':>10}  shares its input's memory")
        for row in self.rows:
            sizes = [row[name] for name in ("result_bytes", "python_held_bytes", "python_peak_bytes", "arrow_bytes")]
            shares = {True: "yes", False: "no"}.get(row.get("shares"), "")
            print(f"{row['stage']:44} " + " ".join(f"{size:10,}" for size in sizes) + f"  {shares}")


def address_of(value: Any) -> int:
    """Return the address of the numbers of an array, of embeddings, or of a batch's vector column."""
    if isinstance(value, Embeddings):
        value = value.vectors
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    column = value.column("vector")
    values = column.values if pa.types.is_fixed_size_list(column.type) else column
    return int(values.buffers()[1].address)


def stages(encoder: Encoder, count: int, options: EmbedOptions) -> Table:
    """Run the stages of one batch of texts."""
    table = Table()
    texts = [TEXT.format(number) for number in range(count)]
    batch = pa.record_batch({"text": texts})
    schema = output_schema(batch.schema, ModelDescription.of(encoder.info), options, encoder.info.spaces.of(options))

    read = table.stage("Arrow strings to Python's", lambda: read_texts(batch, 0, 0), result=lambda _: batch.nbytes)
    task = table.stage(
        "texts to token ids",
        lambda: encoder.prepare(Texts(tuple(read)), options),
        result=lambda task: task.encodings.ids.nbytes,
    )
    parts = [task.encodings.select(np.arange(start, min(start + 32, count))) for start in range(0, count, 32)]
    values = table.stage(
        "32 texts: session's output to numpy",
        lambda: encoder.run(parts[0], task.output),
        result=lambda array: int(array.nbytes),
    )
    print(f"the session's array owns its memory: {values.flags.owndata}")
    computed = [encoder.run(part, task.output) for part in parts]

    def fill() -> Any:
        joined = np.empty((count, encoder.dimension), np.float32)
        for index, part in enumerate(computed):
            joined[32 * index : 32 * index + len(part)] = part
        return joined

    vectors = table.stage(
        "a request larger than a batch: joined", fill, result=lambda array: int(array.nbytes), shares=values
    )
    embeddings: Embeddings = table.stage(
        f"values to embeddings ({options.dtype})",
        lambda: task.finish(vectors),
        result=lambda embeddings: int(embeddings.vectors.nbytes),
        shares=vectors,
    )
    table.stage(
        "embeddings to a record batch",
        lambda: with_vectors(batch, embeddings, schema),
        result=lambda array: int(array.nbytes),
        shares=embeddings,
    )
    table.stage(
        "HTTP: embeddings to base64 in JSON",
        lambda: asyncio.run(encode_embeddings(embeddings, "model", "base64")),
        result=len,
    )
    table.stage(
        "HTTP: embeddings to numbers in JSON",
        lambda: asyncio.run(encode_embeddings(embeddings, "model", "float")),
        result=len,
    )
    return table


def client(url: str, count: int, batches: int) -> None:
    """Run as the client's process, with one stream."""
    batch = pa.record_batch({"text": [TEXT.format(number) for number in range(count)]})
    with fl.connect(url) as flight:
        writer, reader = flight.do_exchange(fl.FlightDescriptor.for_path("embed"))
        with writer:
            writer.begin(batch.schema)
            for _ in range(batches):
                writer.write_batch(batch)
                reader.read_chunk()
            writer.done_writing()


def main() -> None:
    """Run the benchmark, and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "int8", "ubinary"])
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client(options.client, options.texts, 8)
        return
    with Encoder.load(options.artifact, provider="mlas", cache=0) as encoder:
        table = stages(encoder, options.texts, EmbedOptions(dtype=options.dtype))
        table.show()
        pool = pa.default_memory_pool()
        with Server(encoder, ServerOptions(http="off", flight="127.0.0.1:0")) as server:
            before = pool.max_memory()
            command = [sys.executable, __file__, options.artifact, "--texts", str(options.texts)]
            subprocess.run([*command, "--client", str(server.addresses.flight)], check=True)
            grown = pool.max_memory() - before
    vectors = options.texts * encoder.dimension * 4
    print(f"a stream of 8 such batches: Arrow's pool grew by {grown:,} bytes at most; vectors of a batch: {vectors:,}")
    print(json.dumps({"stages": table.rows, "arrow_pool_growth_of_a_stream": grown, "vector_bytes": vectors}))


if __name__ == "__main__":
    main()
