"""`Job`: an ingest job, as its options describe it."""

from __future__ import annotations

from dataclasses import dataclass

from fletcher.runtime.errors import InputError, OptionError
from fletcher.runtime.options.embed import EmbedOptions

from ...files.options import InputOptions
from ..options import IngestOptions, LongbowOptions, SinkOptions
from ..wire.target import Target

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """An ingest job, as its options describe it.

    Attributes:
        source: file, folder, URL, or "-" for standard input.
        inputs: format of the source.
        longbow: Longbow's address, and the dataset.
        options: options of ids, of the journal, and of the rows that are written.
        embed: options of embedding.
        sink: options of sending rows.
    """

    source: str
    longbow: LongbowOptions
    inputs: InputOptions = InputOptions()
    options: IngestOptions = IngestOptions()
    embed: EmbedOptions = EmbedOptions()
    sink: SinkOptions = SinkOptions()

    def __post_init__(self) -> None:
        if not self.longbow.dataset:
            raise InputError("the dataset has no name: give one with --dataset")
        if self.embed.dtype == "ubinary":
            raise OptionError(
                "dtype", "Longbow indexes float32 vectors, and ubinary keeps only their signs: use float32"
            )
        Target.of(self.longbow, self.options.trace)  # raises for an invalid address or trace id
