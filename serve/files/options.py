"""Options of a file of texts, and of a file of vectors."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fletcher.runtime.inputs import IncludeField
from fletcher.runtime.options.struct import Options

__all__ = ["InputOptions", "OutputOptions"]


class InputOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Format of an input of texts, its column, and the number of texts that are read at a time."""

    text_format: Annotated[
        str | None,
        Meta(
            description="Format of the input: txt, jsonl, csv, parquet or arrow. Default: by the file's name.",
            extra={"flags": ("--format",)},
        ),
    ] = None
    column: Annotated[str, Meta(description="Key or column with the text.")] = "text"
    chunk_size: Annotated[
        int, Meta(ge=1, description="Number of texts that are read at a time. A larger number needs more memory.")
    ] = 1024


class OutputOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Columns of a file of vectors."""

    include: IncludeField = None
