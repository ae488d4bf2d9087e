"""Charge a client's limit as often as possible: `python hammer.py TABLE PROCESS SECONDS` prints how often it was admitted."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from fletcher.serve.access.limits.ledger import TableLedger
from fletcher.serve.access.limits.plan import Plan
from fletcher.serve.access.limits.quota import read_quota


def main() -> None:
    """Charge until the time is over."""
    path, process, seconds = sys.argv[1:]
    ledger, limits = TableLedger(Path(path), int(process), 4), Plan.of(read_quota(("requests=100/s:50",)))
    count, until = 0, time.monotonic() + float(seconds)
    while time.monotonic() < until:
        count += not ledger.charge("ann", limits, (1, 0, 0)).refused
    sys.stdout.write(f"{count}\n")


if __name__ == "__main__":
    main()
