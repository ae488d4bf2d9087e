"""Memory of a front process: at its start, above its tokenizer, and after a load.

    python benchmarks/serve/front_memory.py ARTIFACT [--requests 500]

Prints JSON, in MB of memory that a process shares with no other (private pages). `tokenizer` is what a process grows by when
it opens the artifact's tokenizer; `above` is a front at its start without it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from running import Running, process_tree, serving

#: Program that opens a tokenizer, and prints the growth of its memory in bytes.
TOKENIZER = """
import sys
from pathlib import Path
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
sys.path.insert(0, sys.argv[2])
from front_memory import private_bytes
Tokenizer(Path(sys.argv[3]), 128).encode(["a text"])  # what the first tokenizer of any model needs
before = private_bytes("self")
tokenizer = Tokenizer(Path(sys.argv[1]), 128)
tokenizer.encode(["a text"])
print(private_bytes("self") - before)
"""

#: A tokenizer with one word, in the format of the library `tokenizers`.
SMALLEST = {
    "version": "1.0",
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
    "pre_tokenizer": {"type": "Whitespace"},
}


def private_bytes(pid: int | str) -> int:
    """Return the memory of a process that it shares with no other, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def tokenizer_bytes(artifact: Path) -> int:
    """Return the memory of an artifact's tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        smallest = Path(folder, "tokenizer.json")
        smallest.write_text(json.dumps(SMALLEST))
        command = [sys.executable, "-c", TOKENIZER, str(artifact / "tokenizer.json"), str(Path(__file__).parent)]
        return int(subprocess.run([*command, str(smallest)], check=True, capture_output=True, text=True).stdout)


def front_of(server: Running) -> int:
    """Return the process id of the server's front."""
    (front,) = [pid for pid, use in process_tree(server.process.pid).items() if "fronts.child front" in use.command]
    return front


def load(server: Running, requests: int) -> None:
    """Send requests of 32 texts from 16 connections."""
    body = {"model": "bench", "input": [f"a text with number {number}" for number in range(32)]}

    def send(count: int) -> None:
        with httpx.Client(base_url=server.http, timeout=60) as client:
            for _ in range(count):
                client.post("/v1/embeddings", json=body).raise_for_status()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(send, [requests // 16] * 16))


def main() -> None:
    """Run the benchmark, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--requests", type=int, default=512)
    options = parser.parse_args()
    tokenizer = tokenizer_bytes(options.artifact)
    result: dict[str, object] = {"tokenizer": round(tokenizer / 1e6, 1)}
    for name, flight in (("http", "off"), ("http and flight", "127.0.0.1:0")):
        with serving(str(options.artifact), "--fronts", "1", "--provider", "mlas", "--flight", flight) as server:
            start = private_bytes(front_of(server))
            load(server, options.requests)
            after = private_bytes(front_of(server))
        result[name] = {
            "start": round(start / 1e6, 1),
            "above": round((start - tokenizer) / 1e6, 1),
            "after the load": round(after / 1e6, 1),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
