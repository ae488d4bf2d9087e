"""Comparison of the graphs that two checkouts of Fletcher write, in turns in one process.

    python benchmarks/revisions/graphs.py OLD NEW [--rounds 15] [--threads 1]

OLD and NEW are folders, for example worktrees of git. Each exports two random checkpoints, which the program writes: one of
bge-small's dimensions (12 layers, `cls`), and one of cross-encoder/ms-marco-MiniLM-L6's (6 layers, a classifier). All
artifacts run in sessions of the installed Fletcher. A ratio is the median of the rounds' ratios; above 1 means that NEW is
faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.session.session import Session

EXPORT = (
    "import sys; from fletcher.convert.export.export import export\n"
    "export(sys.argv[1], sys.argv[2], max_tokens=512, pooling=sys.argv[3] or None)"
)
#: Pooling by checkpoint; a classifier has its own.
KINDS: Mapping[str, str] = {"bge-small": "cls", "ms-marco-MiniLM-L6": ""}
#: Tokens of each text of a batch.
BATCHES: Mapping[str, list[int]] = {
    "1 x 8": [8],
    "1 x 32": [32],
    "32 x 32": [32] * 32,
    "16 x 128": [128] * 16,
    "4 x 512": [512] * 4,
    "32 of 4 to 256": np.random.default_rng(0).integers(4, 257, 32).tolist(),
}
#: Tokens of the batches of a round, which runs small batches more than once.
TOKENS = 2000


def write_checkpoint(folder: Path, kind: str) -> None:
    """Write a random checkpoint."""
    folder.mkdir()
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{index}" for index in range(30_522 - len(words))]
    transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=30_522,
        hidden_size=384,
        num_attention_heads=12,
        intermediate_size=1536,
        num_hidden_layers=12 if kind == "bge-small" else 6,
    )
    if kind != "bge-small":
        config.num_labels = 1
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    else:
        transformers.BertModel(config).save_pretrained(folder)


def open_graphs(source: Path, checkouts: Mapping[str, Path], threads: int) -> dict[str, Session]:
    """Export a checkpoint by each checkout, and return the sessions of the graphs."""
    sessions = {}
    for side, checkout in checkouts.items():
        folder = source.with_name(f"{source.name}-{side}")
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")}
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", EXPORT, source, folder, KINDS[source.name]],
            env=environment,
            check=True,
        )
        artifact = Artifact.open(folder)
        sessions[side] = open_session(artifact, artifact.manifest.variants[0], provider="mlas", threads=threads)
    return sessions


def compare(sessions: Mapping[str, Session], batch: Encodings, rounds: int) -> Iterator[str]:
    """Yield the milliseconds of a batch, the ratios, and the largest difference, in words."""
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sessions}
    results = {}
    runs = max(1, TOKENS // batch.num_tokens)
    for number in range(rounds + 1):  # the first one is not counted
        for side in sessions if number % 2 else reversed([*sessions]):
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(runs):
                results[side] = sessions[side].run(batch)
            if number:
                seconds[side].append((time.perf_counter() - wall, time.process_time() - processor))
    for side, values in seconds.items():
        yield f"{side} {1e3 * statistics.median(wall for wall, _ in values) / runs:.2f} ms"
    for place, name in enumerate(("wall", "processor")):
        ratios = [old[place] / new[place] for old, new in zip(seconds["old"], seconds["new"], strict=True)]
        yield f"old/new {name} time {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    yield f"vectors differ by {np.abs(results['old'] - results['new']).max():.1e}"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            write_checkpoint(Path(scratch) / kind, kind)
            sessions = open_graphs(Path(scratch) / kind, {"old": args.old, "new": args.new}, args.threads)
            for name, lengths in BATCHES.items():
                batch = Encodings.from_lists([rng.integers(5, 30_000, length, np.int32) for length in lengths])
                if kind != "bge-small":  # a pair of texts has token types
                    batch = replace(batch, token_types=np.zeros(len(batch.ids), np.int32))
                print(f"{kind}, {name}: {', '.join(compare(sessions, batch, args.rounds))}", flush=True)


if __name__ == "__main__":
    main()
