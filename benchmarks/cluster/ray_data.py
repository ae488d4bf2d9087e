"""Ray Data beside one process: rows per second of `fletcher-serve cluster embed` and of `Encoder.stream` on the same cores.

    python -m benchmarks.cluster.ray_data ARTIFACT [--cores 1] [--seconds 20] [--json]

Both read the same Parquet file, in chunks of the same size, and write the vectors to Parquet files. The fixed start of the
job does not count: its rate is that from the first finished part to the last, by the times of the journal, and that of
`Encoder.stream` begins with the first chunk after as many rows. The CPU time of a row is that of the process and that of the
engine; on a busy machine it is steadier than the rates. The memory is the largest resident memory of the engine after
the first part and after the last.
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

#: Parts of the input, and rows that tell the speed.
PARTS, PROBE = 10, 10_000


def main() -> None:
    """Measure, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds that one process needs for the rows")
    parser.add_argument("--words", type=int, default=12, help="words of a text")
    parser.add_argument("--provider", default="mlas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # for both, and what they start
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        group = max(int(rate(options, folder) * options.seconds) // PARTS, 100)
        write_rows(folder / "input", group * PARTS, options.words, group)
        before = in_process(options, folder, group)
        job = on_cluster(options, folder, group)
        after = in_process(options, folder, group)
    alone, cpu = ((before[place] + after[place]) / 2 for place in (0, 1))
    result = {
        "alone": alone,
        "alone_runs": [before[0], after[0]],
        "alone_cpu_us": cpu,
        "share": job["rate"] / alone,
        "rows": group * PARTS,
        **job,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"Encoder.stream to Parquet  {alone:12,.0f} rows/s  ({before[0]:,.0f} before, {after[0]:,.0f} after the job)")
    print(f"Ray Data to Parquet        {job['rate']:12,.0f} rows/s  ({result['share']:.3f} of it)")
    print(f"CPU of a row               {cpu:12.1f} us alone, {job['cpu_us']:.1f} us in the engine")
    print(f"start of the job           {job['start_seconds']:12.1f} s until its first part was finished")
    print(
        f"memory of the engine       {job['memory_first'] / 1e6:12,.0f} MB after a part, "
        f"{job['memory'] / 1e6:,.0f} MB at the end"
    )


def write_rows(folder: Path, rows: int, words: int, group: int) -> None:
    """Write distinct texts of about so many words to a Parquet file with row groups of so many rows."""
    folder.mkdir()
    texts = [
        f"{row} " + " ".join(WORDS[(row * 7 + place * 3) % len(WORDS)] for place in range(words - 1))
        for row in range(rows)
    ]
    pq.write_table(pa.table({"id": range(rows), "text": texts}), folder / "texts.parquet", row_group_size=group)


def rate(options: argparse.Namespace, folder: Path) -> float:
    """Return about how many rows per second the model embeds."""
    write_rows(folder / "probe", PROBE, options.words, PROBE)
    with Encoder.load(options.artifact, provider=options.provider, workers=options.cores) as encoder:
        texts = pq.read_table(folder / "probe" / "texts.parquet")["text"].to_pylist()
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < 2.0 and done < len(texts):
            encoder.embed(texts[done : done + 512])
            done += 512
        return done / (time.perf_counter() - started)


def in_process(options: argparse.Namespace, folder: Path, group: int) -> tuple[float, float]:
    """Return rows per second and microseconds of CPU a row of a process that streams rows through one `Encoder` to Parquet.

    The first part of the rows does not count.
    """
    code = (
        "import sys, time, pyarrow.parquet as pq\n"
        "from collections import deque\n"
        "from fletcher.runtime import Encoder\n"
        "from fletcher.runtime.options.embed import EmbedOptions\n"
        "from fletcher.serve.arrow.tables import append_vectors\n"
        "artifact, source, out, provider, workers, first = sys.argv[1:7]\n"
        "with Encoder.load(artifact, provider=provider, workers=int(workers)) as encoder:\n"
        "    waiting, writer, options, done, started, skipped = deque(), None, EmbedOptions(), 0, None, 0\n"
        "    def chunks():\n"
        "        for batch in pq.ParquetFile(source).iter_batches(batch_size=1024):\n"
        "            waiting.append(batch)\n"
        "            yield batch.column('text').to_pylist()\n"
        "    for embeddings in encoder.stream(chunks(), options):\n"
        "        made = append_vectors(waiting.popleft(), embeddings, options, encoder.dimension)\n"
        "        writer = writer or pq.ParquetWriter(out, made.schema, compression='zstd', use_dictionary=False)\n"
        "        writer.write_batch(made)\n"
        "        done += made.num_rows\n"
        "        if started is None and done >= int(first):\n"
        "            started, skipped, cpu = time.perf_counter(), done, time.process_time()\n"
        "    writer.close()\n"
        "    done -= skipped\n"
        "    print(done / (time.perf_counter() - started), 1e6 * (time.process_time() - cpu) / done)\n"
    )
    source = folder / "input" / "texts.parquet"
    arguments = [
        options.artifact,
        str(source),
        str(folder / "alone.parquet"),
        options.provider,
        str(options.cores),
        str(group),
    ]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    found, used = done.stdout.split()[-2:]
    return float(found), float(used)


def on_cluster(options: argparse.Namespace, folder: Path, group: int) -> dict[str, float]:
    """Return the rate, the start and the memory of a job on a cluster of this machine."""
    command = [*COMMAND, "cluster", "embed", options.artifact, str(folder / "input"), str(folder / "output")]
    command += ["--address", "local", "--provider", options.provider, "--cores", str(options.cores), "--engines", "1"]
    command += ["--part-rows", str(group), "--json"]
    started = time.time()
    job = subprocess.run(command, capture_output=True, text=True)
    if job.returncode:
        raise RuntimeError(f"the job failed: {job.stderr}")
    summary = json.loads(job.stdout[job.stdout.index("{") :])
    files = sorted((folder / "output" / "_fletcher" / "parts").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    first, last = files[0].stat().st_mtime, files[-1].stat().st_mtime
    done = [json.loads(file.read_text()) for file in files[1:]]
    return {
        "cpu_us": 1e6 * sum(part["cpu_seconds"] for part in done) / sum(part["rows"] for part in done),
        "rate": (len(files) - 1) * group / (last - first),
        "start_seconds": first - started,
        "memory_first": json.loads(files[0].read_text())["memory"],
        "memory": summary["memory"],
    }


if __name__ == "__main__":
    main()
