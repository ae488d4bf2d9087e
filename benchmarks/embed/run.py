"""`fletcher-serve embed` against sentence-transformers (torch, fp32, its best batch size) on the same ragged texts.

    python benchmarks/embed/run.py                       # 20,000 texts, three interleaved rounds
    python benchmarks/embed/run.py --texts 2000 --rounds 1

Every measurement is a process of its own, and the two sides take turns, so that a machine that slows down slows both. Both
times are from the first text to the last vector, without loading the model. It needs the extras cpu, serve and verify, and
sentence-transformers. The result is JSON on stdout: the ratio is what counts, the seconds are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from texts import ragged_texts

from fletcher.model_zoo import fetch
from fletcher.runtime.encoder import usable_processors

MODEL = "all-MiniLM-L6-v2"

#: Batch sizes that sentence-transformers is tried with; its default is 32.
BATCH_SIZES = (8, 16, 32, 64, 128)

#: Texts that the batch size is chosen on.
PROBE_TEXTS = 1000


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_processors(), help="processors for each side")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.texts, options.rounds, options.threads)
    told = json.dumps(result, indent=2)
    print(told)
    if options.output:
        options.output.write_text(told + "\n")


def measure(folder: Path, count: int, rounds: int, threads: int) -> dict[str, Any]:
    """Chooses the peer's batch size, then lets both take turns."""
    texts = ragged_texts(count)
    source = write_texts(folder / "texts.jsonl", texts)
    probe = write_texts(folder / "probe.jsonl", texts[:PROBE_TEXTS])
    checkpoint = fetch(MODEL).folder
    artifact = folder / "artifact"
    say(f"converting {MODEL}")
    call(
        [str(Path(sys.executable).parent / "fletcher-convert"), "model", "export", MODEL, "-o", str(artifact), "--json"]
    )

    probes: dict[int, float] = {}
    for size in BATCH_SIZES * 2:  # the better of two, so that one slow moment does not decide
        seconds = peer(checkpoint, probe, size, threads)["seconds"]
        probes[size] = min(seconds, probes.get(size, seconds))
    batch_size = min(probes, key=lambda size: probes[size])
    say(f"sentence-transformers is fastest with batches of {batch_size}: {probes}")

    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for number in range(rounds):
        ours.append(fletcher(artifact, source, folder / "ours.npy", threads))
        theirs.append(peer(checkpoint, source, batch_size, threads, folder / "theirs.npy"))
        say(f"round {number + 1}: fletcher {ours[-1]['seconds']:.1f} s, peer {theirs[-1]['seconds']:.1f} s")
    apart = float(np.abs(np.load(folder / "ours.npy") - np.load(folder / "theirs.npy")).max())
    our_seconds = [run["seconds"] for run in ours]
    their_seconds = [run["seconds"] for run in theirs]
    return {
        "model": MODEL,
        "texts": count,
        "tokens": ours[0]["tokens"],
        "processors": threads,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "peer": theirs[0]["versions"],
        "peer_batch_size": batch_size,
        "peer_probe_seconds": probes,
        "fletcher_seconds": our_seconds,
        "peer_seconds": their_seconds,
        "ratio": round(statistics.median(their_seconds) / statistics.median(our_seconds), 3),
        "ratio_by_round": [round(b / a, 3) for a, b in zip(our_seconds, their_seconds, strict=True)],
        "max_abs_difference": apart,
    }


def write_texts(path: Path, texts: list[str]) -> Path:
    """A jsonl file: docstrings have line breaks."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def fletcher(artifact: Path, source: Path, output: Path, threads: int) -> dict[str, Any]:
    """One run of the command that users run."""
    command = [str(Path(sys.executable).parent / "fletcher-serve"), "embed", str(artifact)]
    options = ["-i", str(source), "-o", str(output), "--force", "--workers", str(threads), "--json"]
    return call([*command, *options])


def peer(checkpoint: Path, source: Path, batch_size: int, threads: int, output: Path | None = None) -> dict[str, Any]:
    """One run of sentence-transformers."""
    script = Path(__file__).with_name("peer.py")
    command = [sys.executable, str(script), str(checkpoint), str(source), str(batch_size), str(threads)]
    return call([*command, str(output)] if output else command)


def call(command: list[str]) -> dict[str, Any]:
    """Runs a process that prints one JSON object."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
