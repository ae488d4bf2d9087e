"""Ray Data beside one process: rows per second of `fletcher-serve cluster embed` and of `Encoder.stream` on the same cores.

    python -m benchmarks.cluster.ray_data ARTIFACT [--cores 1] [--seconds 6] [--json]

Both read the same Parquet files, in chunks of the same size, and write the vectors to Parquet files. Each embeds a small and
a large input; the rate is the difference of the rows by the difference of the seconds, so the fixed start of either does not
count. The fixed start of the job is what is left of its seconds. The memory is the largest resident memory of the engine, for
the small and the large input.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fletcher.runtime import Encoder

from .ray_running import COMMAND

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "runs",
    "far",
    "away",
    "into",
    "the",
    "deep",
    "dark",
    "woods",
    "where",
    "nobody",
    "goes",
]

#: Rows of a row group and of a part.
GROUP = 10_000


def main() -> None:
    """Measure, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="seconds of the small input; the large one has three times its rows"
    )
    parser.add_argument("--words", type=int, default=12, help="words of a text")
    parser.add_argument("--provider", default="mlas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # for both, and what they start
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = max(int(rate(options, folder) * options.seconds) // GROUP, 1) * GROUP
        sizes = {"small": small, "large": 3 * small}
        for size, rows in sizes.items():
            write_rows(folder / size, rows, options.words)
        alone = {size: in_process(options, folder, size) for size in sizes}
        jobs = {size: on_cluster(options, folder, size) for size in sizes}
    result = summary(sizes, alone, jobs)
    if options.json:
        print(json.dumps(result))
        return
    print(f"Encoder.stream to Parquet  {result['alone']:12,.0f} rows/s")
    print(f"Ray Data to Parquet        {result['ray']:12,.0f} rows/s  ({result['share']:.3f} of it)")
    print(f"fixed start of the job     {result['start_seconds']:12.1f} s")
    memory = result["memory"]
    print(
        f"memory of the engine       {memory[0] / 1e6:8,.0f} MB for {small:,} rows, "
        f"{memory[1] / 1e6:,.0f} MB for {3 * small:,}"
    )


def summary(sizes: dict[str, int], alone: dict[str, float], jobs: dict[str, dict[str, float]]) -> dict[str, object]:
    """Return the rates without fixed starts."""
    rows = sizes["large"] - sizes["small"]
    stream = rows / (alone["large"] - alone["small"])
    ray = rows / (jobs["large"]["seconds"] - jobs["small"]["seconds"])
    return {
        "alone": stream,
        "ray": ray,
        "share": ray / stream,
        "start_seconds": jobs["large"]["seconds"] - sizes["large"] / ray,
        "memory": [jobs[size]["memory"] for size in sizes],
        "rows": sizes,
        "seconds": {"alone": alone, "ray": {size: job["seconds"] for size, job in jobs.items()}},
    }


def write_rows(folder: Path, rows: int, words: int) -> None:
    """Write distinct texts of about so many words to a Parquet file."""
    folder.mkdir()
    texts = [
        f"{row} " + " ".join(WORDS[(row * 7 + place * 3) % len(WORDS)] for place in range(words - 1))
        for row in range(rows)
    ]
    pq.write_table(pa.table({"id": range(rows), "text": texts}), folder / "texts.parquet", row_group_size=GROUP)


def rate(options: argparse.Namespace, folder: Path) -> float:
    """Return about how many rows per second the model embeds."""
    write_rows(folder / "probe", GROUP, options.words)
    with Encoder.load(options.artifact, provider=options.provider, workers=options.cores) as encoder:
        texts = pq.read_table(folder / "probe" / "texts.parquet")["text"].to_pylist()
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < 2.0 and done < len(texts):
            encoder.embed(texts[done : done + 512])
            done += 512
        return done / (time.perf_counter() - started)


def in_process(options: argparse.Namespace, folder: Path, size: str) -> float:
    """Return the seconds of a process that streams the rows through one `Encoder` into a Parquet file, without its load."""
    code = (
        "import sys, time, pyarrow.parquet as pq\n"
        "from collections import deque\n"
        "from fletcher.runtime import Encoder\n"
        "from fletcher.runtime.options.embed import EmbedOptions\n"
        "from fletcher.serve.arrow.tables import append_vectors\n"
        "artifact, source, out, provider, workers = sys.argv[1:6]\n"
        "with Encoder.load(artifact, provider=provider, workers=int(workers)) as encoder:\n"
        "    started, waiting, writer, options, rows = time.perf_counter(), deque(), None, EmbedOptions(), []\n"
        "    def chunks():\n"
        "        for batch in pq.ParquetFile(source).iter_batches(batch_size=1024):\n"
        "            waiting.append(batch)\n"
        "            yield batch.column('text').to_pylist()\n"
        "    for embeddings in encoder.stream(chunks(), options):\n"
        "        made = append_vectors(waiting.popleft(), embeddings, options, encoder.dimension)\n"
        "        writer = writer or pq.ParquetWriter(out, made.schema, compression='zstd', use_dictionary=False)\n"
        "        writer.write_batch(made)\n"
        "    writer.close()\n"
        "    print(time.perf_counter() - started)\n"
    )
    source = folder / size / "texts.parquet"
    arguments = [options.artifact, str(source), str(folder / f"{size}.out"), options.provider, str(options.cores)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def on_cluster(options: argparse.Namespace, folder: Path, size: str) -> dict[str, float]:
    """Return seconds, from the plan to the last part, and memory of a job on a cluster of this machine."""
    command = [*COMMAND, "cluster", "embed", options.artifact, str(folder / size), str(folder / f"{size}-ray")]
    command += ["--address", "local", "--provider", options.provider, "--cores", str(options.cores), "--engines", "1"]
    command += ["--part-rows", str(GROUP), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


if __name__ == "__main__":
    main()
