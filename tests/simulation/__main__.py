"""Command: `python -m tests.simulation --seeds 10000` runs seeds; `--seed N` runs one and prints its trace."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from .run import failing_seeds, simulate, simulator

#: Seeds that a process runs before it reports.
CHUNK = 50


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds. Default: 1000.")
    parser.add_argument("--first", type=int, default=0, help="the first seed. Default: 0.")
    parser.add_argument("--seed", type=int, help="run this seed alone, and print its trace.")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes. Default: 1.")
    given = parser.parse_args()
    if given.seed is not None:
        with simulator():
            outcome = simulate(given.seed)
        sys.stdout.writelines(f"{line}\n" for line in outcome.trace)
        if outcome.error is not None:
            traceback.print_exception(outcome.error)
        return outcome.error is not None
    started, failures = time.monotonic(), 0
    chunks = [
        range(first, min(first + CHUNK, given.first + given.seeds))
        for first in range(given.first, given.first + given.seeds, CHUNK)
    ]
    with ProcessPoolExecutor(given.jobs) as pool:
        for failed in pool.map(failing_seeds, chunks):
            for seed, error in failed:
                failures += 1
                sys.stdout.write(f"seed {seed}: {error}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{given.seeds} seeds, {failures} failed, {time.monotonic() - started:.0f} s\n")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
