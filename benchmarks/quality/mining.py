"""Peak memory and time of the search of `fletcher-convert tune mine`, without the embedding.

    python benchmarks/quality/mining.py [--documents 1000000] [--queries 100000] [--dimension 384]    goal: within 8 GB

Random vectors stand for texts; documents are made in chunks, as the command embeds them, and are not kept.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from fletcher.convert.tune.mining.files import CHUNK
from fletcher.convert.tune.mining.nearest import NearestDocuments
from fletcher.convert.tune.mining.options import MiningOptions
from fletcher.runtime.tasks.postprocess import normalize


def main() -> None:
    """Search, and print the peak memory and the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    options = parser.parse_args()
    random = np.random.default_rng(0)

    def some(count: int) -> np.ndarray:
        return normalize(random.standard_normal((count, options.dimension), dtype=np.float32))

    nearest = NearestDocuments(some(options.queries), MiningOptions().window + 2)
    started = time.perf_counter()
    for start in range(0, options.documents, CHUNK):
        nearest.add(some(min(CHUNK, options.documents - start)))
    seconds = time.perf_counter() - started
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{options.documents:,} documents, {options.queries:,} queries: {peak / 1e9:.2f} GB at most, {seconds:.0f} s")


if __name__ == "__main__":
    main()
