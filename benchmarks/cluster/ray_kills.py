"""A corpus job whose engines and which itself are killed: every row is in the output once, and its memory is bounded.

    python -m benchmarks.cluster.ray_kills ARTIFACT [--rows 1000000] [--engine-kills 20] [--job-kills 3] [--json]

The job runs on a cluster of this machine and writes Parquet files. After every few finished parts its engine is killed
(SIGKILL); now and then the job with its whole cluster. The job is started again until it ends. Then the ids of the output are
compared with those of the input, and the vectors of a sample with those of `Encoder.embed`. The exit status is 1 if a row is
missing, there twice or wrong, or a file is incomplete.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.serve.running import end_processes, process_tree

from fletcher.runtime import Encoder

from .ray_data import WORDS
from .ray_running import COMMAND

#: Rows of a file, and of a part.
FILE_ROWS, PART_ROWS = 100_000, 5_000

#: Rows whose vectors are compared.
SAMPLE = 2_000


def main() -> None:
    """Run the job with its kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine-kills", type=int, default=20)
    parser.add_argument("--job-kills", type=int, default=3)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--provider", default="mlas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "input", options.rows)
        started = time.monotonic()
        killed = run(options, folder)
        result = {**killed, "seconds": round(time.monotonic() - started, 1), **compare(options, folder)}
    right = result["missing"] == result["doubled"] == result["wrong"] == result["strange_files"] == 0
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{options.rows:,} rows, {result['engine_kills']} engines and {result['job_kills']} jobs killed, "
            f"{result['seconds']} s: "
            f"{result['missing']} missing, {result['doubled']} doubled, {result['wrong']} of {SAMPLE:,} vectors wrong, "
            f"{result['strange_files']} incomplete files; largest engine {result['memory'] / 1e6:,.0f} MB"
        )
    sys.exit(0 if right else 1)


def write_rows(folder: Path, rows: int) -> None:
    """Write texts to Parquet files."""
    folder.mkdir()
    for first in range(0, rows, FILE_ROWS):
        ids = range(first, min(first + FILE_ROWS, rows))
        texts = [f"{WORDS[row % 19]} {WORDS[row % 17]} {row}" for row in ids]
        table = pa.table({"id": pa.array(ids, pa.int64()), "text": texts})
        pq.write_table(table, folder / f"{first:010d}.parquet", row_group_size=PART_ROWS)


def run(options: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Run the job, and kill its engines and itself at even distances of finished parts, until it ends by itself."""
    parts = -(-options.rows // PART_ROWS)
    kills = options.engine_kills + options.job_kills
    step = max(parts // (kills + 1), 1)
    jobs = {round((index + 1) * (kills + 1) / (options.job_kills + 1)) for index in range(options.job_kills)}
    number = engine_kills = job_kills = 0
    memory = 0.0
    while True:
        process = start(options, folder)
        tree = process_tree(process.pid)
        while process.poll() is None:
            time.sleep(0.05)
            if number < kills and finished(folder) >= (number + 1) * step:
                tree = process_tree(process.pid)
                if number + 1 in jobs:
                    process.kill()
                    process.wait()
                    end_processes(tree)  # a node that loses its driver ends by itself some seconds later
                    job_kills, number = job_kills + 1, number + 1
                    break
                if kill_engine(tree):
                    engine_kills, number = engine_kills + 1, number + 1
        else:
            output = (folder / "log").read_text()
            if process.returncode != 0:
                raise RuntimeError(f"the job failed: {output} {(folder / 'errors').read_text()[-2000:]}")
            memory = max(memory, json.loads(output[output.index("{\n") :])["memory"])
            return {"engine_kills": engine_kills, "job_kills": job_kills, "memory": int(memory)}


def start(options: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start the job."""
    command = [*COMMAND, "cluster", "embed", options.artifact, str(folder / "input"), str(folder / "output")]
    command += ["--address", "local", "--provider", options.provider, "--engines", str(options.engines), "--cores", "1"]
    command += ["--part-rows", str(PART_ROWS), "--json"]
    with (folder / "log").open("wb") as log, (folder / "errors").open("ab") as errors:
        return subprocess.Popen(command, stdout=log, stderr=errors)


def finished(folder: Path) -> int:
    """Return the number of finished parts."""
    parts = folder / "output" / "_fletcher" / "parts"
    return len(list(parts.glob("*.json"))) if parts.is_dir() else 0


def kill_engine(tree: dict[int, object]) -> bool:
    """Kill a process that embeds, and return whether there was one."""
    engines = [pid for pid, use in tree.items() if "MapWorker" in getattr(use, "command", "")]
    for pid in engines[:1]:
        os.kill(pid, signal.SIGKILL)
    return bool(engines)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Return how many rows are missing, doubled or wrong, and the files that should not be there."""
    files = sorted((folder / "output").glob("part-*.parquet"))
    strange = [file for file in (folder / "output").rglob("*.parquet") if file not in files]
    ids = np.concatenate([pq.read_table(file, columns=["id"])["id"].to_numpy() for file in files])
    counts = np.bincount(ids, minlength=options.rows)
    table = pq.read_table(files[len(files) // 2]).slice(0, SAMPLE)
    with Encoder.load(options.artifact, provider=options.provider) as encoder:
        right = encoder.embed(table["text"].to_pylist()).vectors
    made = np.array(table["vector"].to_pylist(), np.float32)
    wrong = int((np.abs(made - right).max(axis=1) > 1e-5).sum())
    return {
        "missing": int((counts == 0).sum()),
        "doubled": int((counts > 1).sum()),
        "wrong": wrong,
        "strange_files": len(strange),
    }


if __name__ == "__main__":
    main()
