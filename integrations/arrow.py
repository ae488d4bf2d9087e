"""`TableEmbedder`: a callable from an Arrow table to a table with vectors, for Ray Data, Spark, Daft and plain loops."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa

from fletcher.runtime import EmbedOptions, Encoder, LoadOptions
from fletcher.runtime.remote.url import is_url
from fletcher.serve.arrow.batches import choose_column, read_texts
from fletcher.serve.arrow.columns import VECTOR_COLUMN
from fletcher.serve.arrow.options import ArrowOptions
from fletcher.serve.arrow.tables import append_vectors

from .artifacts import find_artifact

__all__ = ["TableEmbedder"]

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


@cache
def _load(source: str, load: LoadOptions | None) -> Encoder:
    """Return a model, which each process loads once: clusters make a callable anew for each of their tasks."""
    encoder = Encoder.load(source if is_url(source) else find_artifact(source), load)
    atexit.register(encoder.close)
    return encoder


@dataclass  # not frozen: Ray Data derives a class from it, and sets attributes of its own
class TableEmbedder:
    """A callable that adds the column `vector` to a table or a record batch.

    It can be sent to other processes. Each process loads the model at the first call and keeps it until it ends. The vectors
    are not copied, and no Python object is made for an element.

    Attributes:
        source: folder of an artifact or a checkpoint that every worker can read, the URL of an artifact (s3://, gs://, az://,
            hf://, file://), which each node downloads once, a name of the zoo, or a hub id.
        column: column of the texts. Default: `text`, or the only column of strings.
        options: options of the vectors; with `int8` a column `scale` is added, with windows `chunks`.
        load: options of loading, for example `LoadOptions(provider="cuda")`.
    """

    source: str
    column: str | None = None
    options: EmbedOptions = field(default_factory=EmbedOptions)
    load: LoadOptions | None = None

    @property
    def encoder(self) -> Encoder:
        """The model of this process.

        Raises:
            FletcherError: the model cannot be converted or loaded.
        """
        return _load(str(self.source), self.load)

    def __call__(self, rows: Rows) -> Rows:
        """Return a table or a record batch with its vectors.

        Raises:
            InputError: there is no column of texts, or several; a text is null; or the rows have a column `vector` already.
        """
        column = choose_column(rows.schema, ArrowOptions(column=self.column))
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        texts: list[str] = []
        for batch in batches:
            texts += read_texts(batch, column, len(texts))
        embeddings = self.encoder.embed(texts, self.options)
        return append_vectors(rows, embeddings, self.options, self.encoder.dimension)

    def lists(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield record batches with vectors as lists of any length, for Spark's `mapInArrow`: Spark has no other lists.

        Raises:
            InputError: as for a call.
        """
        for batch in batches:
            rows = self(batch)
            index = rows.schema.get_field_index(VECTOR_COLUMN)
            vectors = rows.column(index)
            yield rows.set_column(index, VECTOR_COLUMN, vectors.cast(pa.list_(vectors.type.value_type)))
