"""A job in a process of its own: `python -m tests.serve.longbow.child INPUT URL JOURNAL DELAY [LARGEST_FILE]`."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path
from typing import cast

from fletcher.runtime import Encoder
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.serve.longbow.job.command import Job, Paths, run_job
from fletcher.serve.longbow.job.summary import IngestOptions
from fletcher.serve.longbow.wire.sink import SinkOptions
from fletcher.serve.longbow.wire.target import Target

from .unit_encoder import UnitEncoder


def main() -> None:
    source, url, journal, delay, *largest_file = sys.argv[1:]
    if largest_file:  # a disk that fills up
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file[0]),) * 2)
    job = Job(
        source=source,
        text_format=None,
        column="text",
        chunk_texts=16,
        target=Target(url, timeout=5.0),
        dataset="docs",
        paths=Paths(Path(journal), Path(journal).with_suffix(".failed")),
        on_error="stop",
        options=IngestOptions(),
        sink=SinkOptions(patience=120.0),
        metrics=None,
        trace="",
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    run_job(cast(Encoder, UnitEncoder(delay=float(delay))), job, Reporter(as_json=True))


if __name__ == "__main__":
    main()
