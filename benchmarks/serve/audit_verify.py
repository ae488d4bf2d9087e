"""Time of the check of an audit log.

    python benchmarks/serve/audit_verify.py [--lines 1000000] [--json]

The log has lines of requests with the usual fields. Its making is not part of the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from fletcher.serve.audit.entry import body_of, of_request
from fletcher.serve.audit.log_file import LogFile
from fletcher.serve.audit.verify import files_of, verify
from fletcher.serve.observe.record import RequestRecord, Stages

#: Lines that are written at a time.
BATCH = 4096


def make_log(path: Path, lines: int) -> None:
    """Write a log of requests."""
    record = RequestRecord(
        door="http",
        id="req-0123456789ab-1f",
        client="token:0c6c1f0e-7f43-4c41-9b1c-9ee5cbd2a2c4",
        peer="10.20.30.40",
        route="/v1/embeddings",
        model="all-MiniLM-L6-v2",
        version="1",
        space="8e7f5f7b2a5d4c1e",
        texts=1,
        tokens=12,
        bytes_in=90,
        bytes_out=2200,
        status=200,
        error=None,
        stages=Stages(total=0.0123),
        trace=None,
    )
    body = body_of(of_request(record, time.time()))
    log = LogFile(path, 1 << 40)
    for start in range(0, lines, BATCH):
        log.append([body] * min(BATCH, lines - start))
    log.close()


def main() -> None:
    """Measure, and print the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        make_log(path, options.lines)
        size = path.stat().st_size
        begun = time.perf_counter()
        findings = verify(files_of(path))
        seconds = time.perf_counter() - begun
    assert findings.lines == options.lines and not findings.faults
    if options.json:
        print(json.dumps({"lines": options.lines, "bytes": size, "seconds": seconds}))
        return
    print(f"{options.lines} lines, {size / 1e6:.0f} MB: {seconds:.2f} s")


if __name__ == "__main__":
    main()
