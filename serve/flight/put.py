"""Flight's `DoPut(["longbow", dataset])`: record batches of texts in, an acknowledgement for each out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from fletcher.runtime.embed_options import EmbedOptions

from ..arrow.batches import choose_column, read_texts
from ..arrow.options import ArrowOptions
from ..errors import UnknownRouteError
from ..longbow.door import Document, LongbowDoor, require
from ..models.registry import Models

__all__ = ["flight_put"]


def flight_put(door: LongbowDoor | None, models: Models, descriptor: Any, reader: Any, writer: Any, trace: str) -> None:
    """Answers `DoPut(["longbow", dataset])`: for each record batch, once it is acknowledged, metadata like Longbow's own.

    The column `text`, or the only one of strings, is embedded; `id` is the id; the others are kept as metadata.

    Raises:
        InputError: the path, the columns or the rows cannot be used, or the server has no Longbow.
    """
    path = [part.decode(errors="replace") for part in descriptor.path or []]
    if len(path) != 2 or path[0] != "longbow":
        raise UnknownRouteError(f'nothing is put at the path {path}; there is ["longbow", DATASET]')
    door = require(door)
    column = choose_column(_texts_alone(reader.schema), ArrowOptions())
    name = _texts_alone(reader.schema).field(column).name
    first_row = 0
    for number, batch in enumerate(_batches(reader), start=1):
        texts = read_texts(batch, batch.schema.get_field_index(name), first_row)
        others = [other for other in batch.schema.names if other not in (name, "id")]
        ids = batch.column("id").to_pylist() if "id" in batch.schema.names else [None] * len(texts)
        fields = batch.select(others).to_pylist() if others else [None] * len(texts)
        documents = [Document(*row) for row in zip(texts, ids, fields, strict=True)]
        answer = door.ingest(models, None, path[1], documents, EmbedOptions(), trace)
        first_row += len(texts)
        ack = {"status": "acked", "batch_id": number, "rows": len(texts), "sent": answer.sent}
        writer.write(pa.py_buffer(json.dumps(ack).encode()))


def _batches(reader: Any) -> Iterator[Any]:
    for chunk in reader:
        if chunk.data is not None and chunk.data.num_rows:
            yield chunk.data


def _texts_alone(schema: Any) -> Any:
    """The schema without the id, which may be a string too."""
    return pa.schema([field for field in schema if field.name != "id"])
