"""Growth of resident memory with the number of batch shapes: random batches on all workers, after 500 batches and at the end.

    python benchmarks/memory/growth.py ARTIFACT [--batches 10000] [--provider mlas] [--memory-limit 500MB]

Batches have 1 to 12 texts of log-normal lengths, so almost all batches have different shapes. ONNX Runtime's memory can
grow with each shape (onnxruntime issue 11118, fastembed issue 222). The memory is sampled after every batch.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from fletcher import Encoder
from fletcher.runtime import Encodings
from fletcher.runtime.memory.budget import resident
from fletcher.runtime.options.sizes import parse_size

#: Batches after which the session has allocated its usual memory.
SETTLED = 500


def main() -> None:
    """Run the batches, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--provider", default="mlas")
    parser.add_argument("--memory-limit")
    options = parser.parse_args()
    limit = None if options.memory_limit is None else parse_size(options.memory_limit)
    generator = np.random.default_rng(0)
    with Encoder.load(options.artifact, provider=options.provider, memory_limit=limit) as encoder:
        longest = min(encoder.info.max_tokens, 128)

        def batch() -> Encodings:
            lengths = np.clip(generator.lognormal(3.0, 0.8, generator.integers(1, 13)), 1, longest).astype(int)
            return Encodings.from_lists([np.full(length, 5, np.int32) for length in lengths])

        batches = [batch() for _ in range(options.batches)]
        loaded, peak = resident(), 0

        def work(share: Iterator[Encodings]) -> None:
            nonlocal peak
            for one in share:
                encoder.run(one)
                peak = max(peak, resident())

        def run(some: list[Encodings]) -> None:
            """Compute every n-th batch on each worker, without a reference to finished batches or their futures."""
            threads = [
                threading.Thread(target=work, args=(islice(some, start, None, encoder.info.workers),))
                for start in range(encoder.info.workers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        run(batches[:SETTLED])
        settled = resident()
        run(batches[SETTLED:])
        ended = resident()
    report = {
        "provider": encoder.info.provider,
        "batches": options.batches,
        "shapes": len({(len(one), int(one.lengths.max()), one.num_tokens) for one in batches}),
        "loaded_mb": round(loaded / 1e6, 1),
        "after_500_mb": round(settled / 1e6, 1),
        "at_the_end_mb": round(ended / 1e6, 1),
        "growth": round(ended / settled - 1, 4),
        "peak_mb": round(peak / 1e6, 1),
        "limit_mb": None if limit is None else limit / 1e6,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
