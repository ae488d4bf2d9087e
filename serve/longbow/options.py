"""Options of Longbow and of ingest jobs. The module imports no large package, because `--help` needs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from fletcher.runtime.options.struct import Options

__all__ = ["IngestOptions", "LongbowOptions", "SinkOptions"]

LONGBOW_PANEL = "Longbow"

_unsafe = re.compile(r"[^A-Za-z0-9._-]+")


class LongbowOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Address of Longbow and of a dataset in it."""

    PANEL: ClassVar[str | None] = LONGBOW_PANEL

    longbow: Annotated[
        str,
        Meta(
            description="Address of Longbow, grpc://HOST:PORT, or grpc+tls:// of a proxy.",
            extra={"metavar": "URL", "panel": None},
        ),
    ]
    dataset: Annotated[
        str, Meta(description="Name of the dataset in Longbow.", extra={"metavar": "NAME", "panel": None})
    ]
    longbow_token: Annotated[
        str | None,
        Meta(
            description="Token for a proxy that requires one, from the environment or a TOML file. Default: none.",
            extra={"secret": ""},
        ),
    ] = None
    longbow_token_file: Annotated[
        str | None,
        Meta(
            description="File whose first line is the token for a proxy that requires one. Default: none.",
            extra={"metavar": "FILE"},
        ),
    ] = None
    longbow_ca: Annotated[
        str | None,
        Meta(
            description="File of trusted certificates (PEM). Default: those of the system.", extra={"metavar": "FILE"}
        ),
    ] = None
    timeout: Annotated[float, Meta(ge=0.1, description="Seconds that a call may take.")] = 30.0


class SinkOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of sending rows."""

    PANEL: ClassVar[str | None] = LONGBOW_PANEL

    streams: Annotated[int, Meta(ge=1, description="Number of parallel streams, each on a separate connection.")] = 1
    compression: Annotated[
        Literal["none", "lz4", "zstd"],
        Meta(description="Compression of the stream. Texts compress well, vectors do not."),
    ] = "none"
    patience: Annotated[
        float, Meta(ge=0, description="Seconds without an acknowledgment after which the job stops.")
    ] = 300.0


class IngestOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a job: ids, journal, and the rows that are written."""

    id_column: Annotated[
        str | None,
        Meta(
            description="Column with the id of a document. Default: a hash of the content, or the file's path for a folder."
        ),
    ] = None
    journal: Annotated[
        str | None,
        Meta(
            description="Journal file: the state of every document. Keep it to resume and to update. "
            "Default: ./DATASET.journal.",
            extra={"metavar": "FILE"},
        ),
    ] = None
    on_error: Annotated[
        Literal["skip", "stop"],
        Meta(description="Action for a row that cannot be used: `skip` the row, or `stop` the job."),
    ] = "stop"
    dead_letters: Annotated[
        str | None,
        Meta(
            description="File for skipped rows, as JSON lines. Default: the dataset's name with .failed.jsonl.",
            extra={"metavar": "FILE"},
        ),
    ] = None
    remove_missing: Annotated[
        bool,
        Meta(
            description="Delete documents of earlier runs that the input no longer has.",
            extra={"flags": ("--remove-missing",)},
        ),
    ] = False
    adopt: Annotated[
        bool,
        Meta(
            description="Build a new journal from the rows of the dataset, if the old one is lost.",
            extra={"flags": ("--adopt",)},
        ),
    ] = False
    dry_run: Annotated[
        bool, Meta(description="Only count the documents that would be sent.", extra={"flags": ("--dry-run",)})
    ] = False
    with_text: Annotated[
        bool, Meta(description="Store the texts in Longbow.", extra={"flags": ("--text/--no-text",)})
    ] = True
    allow_unnormalized: Annotated[
        bool,
        Meta(
            description="Send vectors whose length is not 1. Longbow ranks them by distance, not by cosine.",
            extra={"flags": ("--allow-unnormalized",)},
        ),
    ] = False
    longbow_metrics: Annotated[
        str | None,
        Meta(
            description="URL of Longbow's metrics (port 9090, path /metrics), to pause while Longbow is full. "
            "Default: the job reads no metrics.",
            extra={"metavar": "URL", "panel": LONGBOW_PANEL},
        ),
    ] = None
    trace: Annotated[
        str,
        Meta(
            description="Id that is sent with every call and stored in every row's metadata. Default: none.",
            extra={"panel": LONGBOW_PANEL},
        ),
    ] = ""

    def journal_path(self, dataset: str) -> Path:
        """Return the path of the journal. By default, it is named after the dataset, in the current folder."""
        return Path(self.journal or f"{_unsafe.sub('_', dataset)}.journal")

    def dead_letters_path(self, dataset: str) -> Path:
        """Return the path of the file for rows that cannot be used. By default, it is named after the dataset."""
        return Path(self.dead_letters or f"{_unsafe.sub('_', dataset)}.failed.jsonl")
