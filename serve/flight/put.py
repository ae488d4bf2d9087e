"""`flight_put`: the answer to `DoPut(["longbow", dataset])`, which stores texts and their vectors in Longbow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ..arrow.batches import choose_column, read_texts
from ..arrow.options import ArrowOptions
from ..engine.embed_request import EmbedRequest
from ..engine.terms import Terms
from ..errors import UnknownRouteError
from ..longbow.door import LongbowDoor
from ..longbow.ingest_request import Document, require
from ..models.registry import Models
from ..observe.requests import RecordDraft
from .bounds import FlightBounds
from .charging import charge
from .exchange import BATCH_COPIES, Stream
from .middleware import caller_of

__all__ = ["flight_put"]


def flight_put(
    door: LongbowDoor | None,
    models: Models,
    descriptor: Any,
    stream: Stream,
    terms: Terms,
    draft: RecordDraft,
    bounds: FlightBounds,
) -> None:
    """Answer `DoPut(["longbow", dataset])`: acknowledge each record batch, in Longbow's format, after Longbow has it.

    The column `text`, or the only string column, is embedded. The column `id` holds the ids. Other columns become metadata.

    Args:
        door: connection to Longbow; None rejects the call.
        models: models of the server.
        descriptor: pyarrow's `FlightDescriptor`.
        stream: pyarrow's side of the call.
        terms: terms of the first part of the stream.
        draft: draft of the call's record.
        bounds: limits of record batches, and the budget that holds them.

    Raises:
        InputError: the path, the columns or the rows cannot be used, or the server has no Longbow.
    """
    path = [part.decode(errors="replace") for part in descriptor.path or []]
    if len(path) != 2 or path[0] != "longbow":
        raise UnknownRouteError(f'DoPut does not accept the path {path}: use ["longbow", DATASET]')
    door = require(door)
    column = choose_column(_without_id(stream.reader.schema), ArrowOptions())
    name = _without_id(stream.reader.schema).field(column).name
    first_row = 0
    for number, batch in enumerate(_batches(stream.reader), start=1):
        size = batch.nbytes
        draft.bytes_in += size
        bounds.check(size, "record batch")
        held = BATCH_COPIES * size
        if not bounds.hold_part(held, stream.context.is_cancelled):
            return
        try:
            texts = read_texts(batch, batch.schema.get_field_index(name), first_row)
            others = [other for other in batch.schema.names if other not in (name, "id")]
            ids = batch.column("id").to_pylist() if "id" in batch.schema.names else [None] * len(texts)
            fields = batch.select(others).to_pylist() if others else [None] * len(texts)
            documents = [Document(*row) for row in zip(texts, ids, fields, strict=True)]
            if (permit := caller_of(stream.context).permit) is not None:
                permit.check_dataset(path[1])
                request = EmbedRequest(Texts(tuple(texts)), terms=terms)
                time.sleep(charge(permit, request, models.pick()))
            answer = door.ingest(models, None, path[1], documents, EmbedOptions(), terms.at(number), draft)
        finally:
            bounds.budget.hold(-held)
        first_row += len(texts)
        ack = {"status": "acked", "batch_id": number, "rows": len(texts), "sent": answer.sent}
        body = json.dumps(ack).encode()
        draft.bytes_out += len(body)
        stream.writer.write(pa.py_buffer(body))


def _batches(reader: Any) -> Iterator[Any]:
    """Yield the record batches that have rows."""
    for chunk in reader:
        if chunk.data is not None and chunk.data.num_rows:
            yield chunk.data


def _without_id(schema: Any) -> Any:
    """Return the schema without the column `id`, which may hold strings, too."""
    return pa.schema([field for field in schema if field.name != "id"])
