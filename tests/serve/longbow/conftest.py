"""Fixtures: a double of Longbow, or the real server that FLETCHER_LONGBOW names, and ingest jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from fletcher.runtime import Encoder
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.files.options import InputOptions
from fletcher.serve.longbow.job.command import run_job
from fletcher.serve.longbow.job.spec import Job
from fletcher.serve.longbow.job.summary import IngestSummary
from fletcher.serve.longbow.options import IngestOptions, LongbowOptions, SinkOptions

from ...doubles.longbow import LongbowDouble
from .unit_encoder import UnitEncoder

RunJob = Callable[..., IngestSummary]


@pytest.fixture
def longbow() -> Iterator[LongbowDouble]:
    with LongbowDouble() as double:
        yield double


@pytest.fixture
def longbow_url(longbow: LongbowDouble) -> str:
    """Return the address of the double, or of the real server that FLETCHER_LONGBOW names."""
    return os.environ.get("FLETCHER_LONGBOW", longbow.url)


@pytest.fixture
def run(tmp_path: Path, longbow: LongbowDouble) -> RunJob:
    """Return a function that runs a job on rows or on a path. Its calls share the journal."""

    def call(
        rows: list[Any] | str,
        encoder: UnitEncoder | None = None,
        *,
        url: str | None = None,
        dataset: str = "docs",
        on_error: Literal["skip", "stop"] = "stop",
        chunk_texts: int = 4,
        timeout: float = 5.0,
        patience: float = 10.0,
        streams: int = 1,
        compression: Literal["none", "lz4", "zstd"] = "none",
        metrics: str | None = None,
        journal: Path | None = None,
        column: str = "text",
        embed: EmbedOptions | None = None,
        trace: str = "",
        **options: Any,
    ) -> IngestSummary:
        source = rows
        if not isinstance(source, str):
            path = tmp_path / "rows.jsonl"
            path.write_text("".join(json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows))
            source = str(path)
        job = Job(
            source=source,
            longbow=LongbowOptions(longbow=url or longbow.url, dataset=dataset, timeout=timeout),
            inputs=InputOptions(column=column, chunk_size=chunk_texts),
            options=IngestOptions(
                journal=str(journal or tmp_path / "journal"),
                dead_letters=str(tmp_path / "failed.jsonl"),
                on_error=on_error,
                longbow_metrics=metrics,
                trace=trace,
                **options,
            ),
            embed=embed or EmbedOptions(),
            sink=SinkOptions(streams=streams, compression=compression, patience=patience),
        )
        return run_job(cast(Encoder, encoder or UnitEncoder()), job, Reporter(as_json=True))

    return call
