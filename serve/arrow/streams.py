"""Arrow IPC streams as the bodies of requests and answers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from fletcher.runtime import Embeddings

from ..errors import FieldError
from .batches import choose_column, output_schema, read_texts, with_vectors
from .options import ArrowOptions

__all__ = ["output_schema", "read_arrow", "read_schema", "write_arrow"]


def read_schema(body: bytes) -> Any:
    """Return the schema of an Arrow stream."""
    return pa.ipc.open_stream(body).schema


def read_arrow(body: bytes, options: ArrowOptions) -> tuple[list[Any], list[list[str]], str]:
    """Return the stream's batches, their texts, and the name of the column.

    Raises:
        FieldError: the body is not an Arrow stream, or it lacks the column, or the column has a null.
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


def write_arrow(schema: Any, batches: list[Any], embeddings: list[Embeddings]) -> bytes:
    """Return the stream with its vectors."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch, found in zip(batches, embeddings, strict=True):
            # The columns are the client's own and the vectors; the texts' token counts are in the metadata.
            counts = {
                "fletcher.tokens_seen": ",".join(map(str, found.tokens.tolist())),
                "fletcher.tokens_dropped": ",".join(map(str, found.dropped.tolist())),
            }
            writer.write_batch(with_vectors(batch, found, schema), custom_metadata=counts)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream
