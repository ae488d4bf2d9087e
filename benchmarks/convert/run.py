"""Time and memory of a conversion, compared with reading and writing the weights once.

    python benchmarks/convert/run.py SOURCE [--pooling mean] [--rounds 5] [--option=--precision=fp16 …] [--json]

Each round runs `fletcher-convert model export` in a separate process, imports included. It also reads the checkpoint's
weights and writes them to another file, in blocks of 4 MB, from and to the page cache, as the conversion does. Memory
(Linux only) is the peak resident size of one more conversion, minus the size after the imports, relative to the size of
the weights. It includes the tokenizer, which takes 15 MB for a BERT vocabulary, independent of the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fletcher.model_zoo import fetch

BLOCK = 4 << 20
COMMAND = "from fletcher.convert.commands.cli import main; main()"
PEAK = """
import re, sys
import onnxruntime, tokenizers
from fletcher.convert.export.export import export
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
imported = peak()
export(sys.argv[1], sys.argv[2], pooling=sys.argv[3] or None)
print(peak() - imported)
"""


def read_and_write(files: list[Path], copy: Path) -> float:
    """Return the seconds of reading files and writing them to another file once."""
    start = time.perf_counter()
    with copy.open("wb") as target:
        for file in files:
            with file.open("rb") as source:
                while block := source.read(BLOCK):
                    target.write(block)
    return time.perf_counter() - start


def convert(source: str, output: Path, options: list[str]) -> float:
    """Return the seconds of one conversion, from the start of its process to its end."""
    command = [sys.executable, "-c", COMMAND, "model", "export", "--no-verify", source, "-o", str(output), *options]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the figures of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--pooling", default="", help="pooling of a checkpoint that does not define it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--option", action="append", default=[], help="option of the command, as --option=--target=cuda"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = fetch(args.source).folder
    files = sorted(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    options = [*args.option, *([f"--pooling={args.pooling}"] if args.pooling else [])]
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        read_and_write(files, Path(scratch) / "copy")  # loads the checkpoint into the page cache
        for _ in range(args.rounds):
            reading = read_and_write(files, Path(scratch) / "copy")
            seconds = convert(args.source, Path(scratch) / "artifact", options)
            rounds.append({"seconds": seconds, "read_and_write": reading})
        peak = None
        if sys.platform == "linux":
            command = [sys.executable, "-c", PEAK, args.source, str(Path(scratch) / "artifact"), args.pooling]
            peak = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if args.json:
        print(json.dumps({"bytes": size, "rounds": rounds, "peak": peak}))
        return
    print(f"{args.source}: {size / 1e6:.0f} MB of weights")
    for entry in rounds:
        print(f"{entry['seconds']:6.2f} s; weights read and written in {entry['read_and_write']:.2f} s")
    print(f"median {statistics.median(entry['seconds'] for entry in rounds):.2f} s")
    if peak is not None:
        print(f"peak {peak / 1e6:.0f} MB above the imports, {peak / size:.2f} times the weights")


if __name__ == "__main__":
    main()
