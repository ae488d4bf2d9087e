"""Peak memory of a batch, and the runtime's prediction of it.

    python benchmarks/memory/peak.py ARTIFACT [--provider mlas] [--shape 8x512 …] [--workers 1] [--json]

Each shape runs in a separate process, on a session that has computed one short text: the peak of the resident memory is
reset (Linux only), the batch runs once, and the growth is compared with `MemoryShape.predict`. A shape is TEXTSxTOKENS;
several shapes joined by + are one ragged batch. With several workers the batch runs on one after the other, never on
two at the same time: shared memory counts once, and each worker's memory counts for each worker.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from fletcher.runtime import Artifact, Encodings
from fletcher.runtime.providers.opening import open_session

SHAPES = ("1xMAX", "8xMAX", "16x256", "64x64", "128x16", "512x8", "1xMAX+15x4")


def parse_shape(shape: str, max_tokens: int) -> list[int]:
    """Return the lengths of `8x512` or `1xMAX+15x4`, at most the model's limit."""
    lengths: list[int] = []
    for part in shape.split("+"):
        texts, _, tokens = part.partition("x")
        lengths += [max_tokens if tokens == "MAX" else min(int(tokens), max_tokens)] * int(texts)
    return lengths


def status(key: str) -> int:
    """Return the bytes of a line of /proc/self/status."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def grown(path: Path, provider: str, workers: int, lengths: list[int]) -> int:
    """Return the growth of this process's peak resident memory through the batch, in bytes."""
    artifact = Artifact.open(path)
    with open_session(artifact, artifact.variant(), provider=provider, workers=workers) as session:
        for _ in range(workers):
            session.run(Encodings.from_lists([[5, 6]]))
        batch = Encodings.from_lists([np.full(length, 5, np.int32) for length in lengths])
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(workers):
            session.run(batch)
        return status("VmHWM") - before


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--provider", default="mlas")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shape", action="append", help="shape of a batch; can be repeated")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each shape")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    artifact = Artifact.open(args.artifact)
    max_tokens = artifact.manifest.card.max_tokens
    if args.child:
        print(grown(args.artifact, args.provider, args.workers, parse_shape(args.child, max_tokens)))
        return
    shape = artifact.variant().memory
    if shape is None:
        sys.exit(f"{args.artifact} does not declare the memory of its batches")
    if not args.json:
        print(f"{'batch':>20}{'measured MiB':>14}{'predicted MiB':>15}{'ratio':>7}")
    for text in args.shape or SHAPES:
        lengths = parse_shape(text, max_tokens)
        command = [sys.executable, __file__, str(args.artifact), "--provider", args.provider]
        command += ["--workers", str(args.workers), "--child", text]
        measured = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        predicted = shape.on(args.provider).predict(np.array(lengths))
        if args.json:
            print(json.dumps({"batch": text, "lengths": lengths, "measured": measured, "predicted": predicted}))
        else:
            mib = (value / (1 << 20) for value in (measured, predicted))
            print(f"{text:>20}{next(mib):>14.1f}{next(mib):>15.1f}{predicted / max(measured, 1):>7.2f}", flush=True)


if __name__ == "__main__":
    main()
