"""Sizes and processor time of answers: digits of JSON numbers, base64 and raw bytes, plain and compressed.

    python benchmarks/serve/answer_coding.py [--rows 64] [--size 384]

Vectors are random and have length 1. The times are the smallest of several runs, in processor time of this process.
"""

from __future__ import annotations

import argparse
import base64
import time
import zlib
from collections.abc import Callable

import msgspec
import numpy as np
import zstandard

from fletcher.serve.http.json import json_rows

#: Runs of which the fastest counts, and the calls in each.
RUNS, CALLS = 5, 10


def microseconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    best = float("inf")
    for _ in range(RUNS):
        began = time.process_time()
        for _ in range(CALLS):
            work()
        best = min(best, (time.process_time() - began) / CALLS)
    return best * 1e6


def gzip(data: bytes) -> bytes:
    """Compress as the server does with gzip."""
    return zlib.compress(data, 1, 16 + zlib.MAX_WBITS)


def zstd(data: bytes) -> bytes:
    """Compress as the server does with zstd."""
    return zstandard.ZstdCompressor(level=1).compress(data)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--size", type=int, default=384)
    arguments = parser.parse_args()
    vectors = np.random.default_rng(0).normal(size=(arguments.rows, arguments.size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    encoder = msgspec.json.Encoder()
    forms: dict[str, Callable[[], bytes]] = {
        "JSON, digits of float64": lambda: encoder.encode(vectors.tolist()),
        "JSON, digits of float32": lambda: encoder.encode(json_rows(vectors)),
        "base64": lambda: encoder.encode([base64.b64encode(row.tobytes()).decode() for row in vectors]),
        "bytes": vectors.tobytes,
    }
    print("| form | bytes | encoded in µs | zstd | in µs | gzip | in µs |\n|---|---|---|---|---|---|---|")
    for name, encode in forms.items():
        body = encode()
        cells = [name, str(len(body)), f"{microseconds(encode):.0f}"]
        for compress in (zstd, gzip):
            cells += [
                f"{len(compress(body)) / len(body):.2f}",
                f"{microseconds(lambda compress=compress, body=body: compress(body)):.0f}",
            ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
