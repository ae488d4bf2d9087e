"""`TableEmbedder`: a callable from an Arrow table to a table with vectors, for Ray Data, Spark, Daft and plain loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from fletcher.runtime import EmbedOptions, Encoder, LoadOptions
from fletcher.serve.arrow.batches import choose_column, read_texts
from fletcher.serve.arrow.columns import vector_columns, vector_fields
from fletcher.serve.arrow.options import ArrowOptions

from .artifacts import find_artifact

__all__ = ["TableEmbedder"]

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


class TableEmbedder:
    """A callable that adds the column `vector` to a table or a record batch.

    It loads the model at its first call, in each process once, so it can be sent to the workers of a cluster before. The
    vectors are not copied, and no Python object is made for an element.

    Attributes:
        source: the model.
        column: column of the texts, or None.
        options: options of the vectors.
        load: options of loading, or None.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        column: str | None = None,
        options: EmbedOptions | None = None,
        load: LoadOptions | None = None,
    ) -> None:
        """Keep the arguments; nothing is loaded.

        Args:
            source: a folder of an artifact or a checkpoint that every worker can read, a name of the zoo, or a hub id.
            column: column of the texts. Default: `text`, or the only column of strings.
            options: options of the vectors; with `int8` a column `scale` is added, with windows `chunks`.
            load: options of loading, for example `provider="cuda"`.
        """
        self.source = str(source)
        self.column = column
        self.options = EmbedOptions() if options is None else options
        self.load = load
        self._encoder: Encoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_encoder": None}

    @property
    def encoder(self) -> Encoder:
        """The model, which the first access loads.

        Raises:
            FletcherError: the model cannot be converted or loaded.
        """
        if self._encoder is None:
            self._encoder = Encoder.load(find_artifact(self.source), self.load)
        return self._encoder

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
        fields = vector_fields(self.options.dimensions or self.encoder.dimension, self.options)
        for field, values in zip(fields, vector_columns(embeddings, fields), strict=True):
            rows = rows.append_column(field, values)
        return rows

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield record batches with their vectors, for Spark's `mapInArrow`."""
        for batch in batches:
            yield self(batch)

    def close(self) -> None:
        """Close the model, if it is loaded."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
