"""An ingest job in a separate process: `python -m tests.serve.longbow.child INPUT URL JOURNAL DELAY [LARGEST_FILE]`."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path
from typing import cast

from fletcher.runtime import Encoder
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.serve.files.options import InputOptions
from fletcher.serve.longbow.job.command import run_job
from fletcher.serve.longbow.job.spec import Job
from fletcher.serve.longbow.options import IngestOptions, LongbowOptions, SinkOptions

from .unit_encoder import UnitEncoder


def main() -> None:
    source, url, journal, delay, *largest_file = sys.argv[1:]
    if largest_file:  # simulates a full disk: no file may grow beyond this size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file[0]),) * 2)
    job = Job(
        source=source,
        longbow=LongbowOptions(longbow=url, dataset="docs", timeout=5.0),
        inputs=InputOptions(chunk_size=16),
        options=IngestOptions(journal=journal, dead_letters=str(Path(journal).with_suffix(".failed"))),
        sink=SinkOptions(patience=120.0),
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    run_job(cast(Encoder, UnitEncoder(delay=float(delay))), job, Reporter(as_json=True))


if __name__ == "__main__":
    main()
