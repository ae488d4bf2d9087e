"""`CorpusJob` and `CorpusOptions`: a corpus job as its options describe it. `--help` needs them without pyarrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.options.load import LoadOptions
from fletcher.runtime.options.struct import Options

from ...files.options import InputOptions
from ...longbow.options import LongbowOptions

__all__ = ["CorpusJob", "CorpusOptions"]


class CorpusOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Cluster, engines, parts and journal of a corpus job."""

    PANEL: ClassVar[str | None] = "Cluster"

    address: Annotated[
        str,
        Meta(
            description="Address of the cluster, HOST:PORT of its head; auto finds it on this machine or in RAY_ADDRESS, "
            "local starts one on this machine for the time of the job."
        ),
    ] = "auto"
    engines: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Number of models that compute at the same time. Default: as many as the cluster holds."),
    ] = None
    cores: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Cores of an engine. Default: those of the smallest node, or on GPUs those of a node for each GPU."
        ),
    ] = None
    gpus: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="GPUs of an engine. Default: 1 if every node has one, else 0."),
    ] = None
    part_rows: Annotated[
        int,
        Meta(
            ge=1,
            description="Rows of a part at most, as far as the row groups of Parquet and the batches of Arrow files allow. A "
            "part is repeated as a whole if its engine dies. Files of other formats are one part each.",
        ),
    ] = 50_000
    journal: Annotated[
        str | None,
        Meta(
            description="Folder or URL with the finished parts, which the next run leaves out. Default: _fletcher in the "
            "folder of the output; for Longbow ./DATASET.parts.",
            extra={"metavar": "FOLDER|URL"},
        ),
    ] = None
    id_column: Annotated[
        str | None,
        Meta(
            description="Column with the ids for Longbow, whole numbers, each of one row. Default: the number of the row in "
            "the input."
        ),
    ] = None
    with_text: Annotated[
        bool, Meta(description="Store the texts in Longbow.", extra={"flags": ("--text/--no-text",)})
    ] = True


@dataclass(frozen=True, slots=True)
class CorpusJob:
    """A corpus job, as its options describe it.

    Attributes:
        artifact: folder or URL of the artifact.
        source: file, folder or URL of the input.
        sink: folder or URL of the output; for Longbow its address and dataset.
        longbow: Longbow and the dataset, or None for files.
        inputs: format of the input.
        options: options of the vectors.
        load: options of loading.
        corpus: cluster, engines, parts and journal.
    """

    artifact: str
    source: str
    sink: str
    longbow: LongbowOptions | None
    inputs: InputOptions
    options: EmbedOptions
    load: LoadOptions
    corpus: CorpusOptions

    @property
    def journal(self) -> str:
        """Folder or URL of the journal."""
        if self.corpus.journal is not None:
            return self.corpus.journal
        return f"{self.sink.rstrip('/')}/_fletcher" if self.longbow is None else f"{self.longbow.dataset}.parts"
