"""Arrow IPC streams as the bodies of requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fletcher.runtime import Embeddings, TextOutputs

from ..errors import FieldError, TooLargeError
from .batches import choose_column, output_schema, read_texts, with_vectors
from .ipc_sizes import stream_sizes
from .options import ArrowOptions

__all__ = ["measure", "output_schema", "read_arrow", "read_schema", "write_arrow"]


def read_schema(body: bytes) -> Any:
    """Return the schema of an Arrow stream."""
    return pa.ipc.open_stream(body).schema


def measure(body: bytes, most_bytes: int, most_rows: int) -> int:
    """Return the bytes of a stream's buffers after decompression. Nothing is decompressed.

    Args:
        body: the stream.
        most_bytes: largest number of bytes.
        most_rows: largest number of rows.

    Raises:
        FieldError: the body is not an Arrow stream, or it has too many rows.
        TooLargeError: it has too many bytes.
    """
    try:
        rows, plain = stream_sizes(body)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FieldError(f"the body is not an Arrow IPC stream: {type(error).__name__}", None) from None
    if rows > most_rows:
        raise FieldError(
            f"the stream has {rows} rows; the limit is {most_rows}: send several requests, or use Flight", None
        )
    if plain > most_bytes:
        raise TooLargeError(
            f"the stream has {plain} bytes when decompressed; the limit is {most_bytes}: send several requests, or use Flight"
        )
    return plain


def read_arrow(body: bytes, options: ArrowOptions) -> tuple[list[Any], list[list[str]], str]:
    """Return the stream's batches, their texts, and the name of the column.

    Raises:
        FieldError: the body is not an Arrow stream, or it has no such column, or the column has a null.
    """
    try:
        with pa.ipc.open_stream(body) as reader:
            schema, batches = reader.schema, list(reader)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FieldError(f"the body is not an Arrow IPC stream: {type(error).__name__}", None) from None
    column = choose_column(schema, options)
    texts, row = [], 0
    for batch in batches:
        texts.append(read_texts(batch, column, row))
        row += batch.num_rows
    return batches, texts, schema.field(column).name


def write_arrow(schema: Any, batches: list[Any], embeddings: Sequence[Embeddings | TextOutputs]) -> bytes:
    """Return an Arrow stream of batches with their vectors.

    Args:
        schema: schema from `output_schema`.
        batches: batches of the request.
        embeddings: embeddings of each batch's texts.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch, result in zip(batches, embeddings, strict=True):
            # The columns are those of the client and the vectors. The token counts of the texts go to the metadata.
            counts = {
                "fletcher.tokens_seen": ",".join(map(str, result.tokens.tolist())),
                "fletcher.tokens_dropped": ",".join(map(str, result.dropped.tolist())),
            }
            writer.write_batch(with_vectors(batch, result, schema), custom_metadata=counts)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream
