"""`ArrowOptions`: options of a stream of record batches, on Flight and on HTTP."""

from __future__ import annotations

from typing import Any, Literal

from fletcher.runtime.inputs import IncludeField, Requested, with_included
from fletcher.runtime.options.embed import EmbedOptions

__all__ = ["ArrowOptions"]


class ArrowOptions(EmbedOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a stream of record batches: JSON on Flight, the query string on HTTP.

    Attributes:
        column: the column to embed. Default: `text`, or the only string column.
        model: name of the served model. Default: the first one that gives vectors.
        include: further outputs of the same pass, as further columns.
        compression: compression of the answer's buffers. It helps on a slow network, and more for texts than for vectors.

    The other fields are those of `fletcher.runtime.options.embed.EmbedOptions`.
    """

    column: str | None = None
    model: str | None = None
    include: IncludeField = None
    compression: Literal["lz4", "zstd"] | None = None

    def __post_init__(self) -> None:
        """Do nothing: msgspec checked the fields when it decoded them."""

    @property
    def ipc(self) -> Any:
        """Arrow's options for writing the answer."""
        import pyarrow as pa  # imported here because HTTP reads these options without pyarrow

        return pa.ipc.IpcWriteOptions(compression=self.compression)

    @property
    def embed(self) -> EmbedOptions:
        """Options of the vectors."""
        return EmbedOptions.of(self)

    @property
    def output(self) -> Requested:
        """Requested output, or several."""
        return with_included(self.include)
