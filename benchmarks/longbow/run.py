"""Speed and memory of writing texts to Longbow.

A stand-in for Longbow (tests/doubles/longbow.py) runs in another process on the loopback and counts rows.

    python benchmarks/longbow/run.py throughput ARTIFACT   ingest and embed, in turns, in one process
    python benchmarks/longbow/run.py sink                  computed vectors: only the sink, then the complete job
    python benchmarks/longbow/run.py latency ARTIFACT      one text until it is acknowledged: in the server, and over HTTP
    python benchmarks/longbow/run.py memory                peak of a job of a million rows, and of the engine alone

It prints JSON. Run it from the repository's root.
"""

from __future__ import annotations

import argparse
import http.client
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from fletcher import Encoder
from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.progress import SILENT
from fletcher.runtime import Embeddings
from fletcher.runtime.corpora import corpus
from fletcher.runtime.model_info import ModelInfo
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.space.space import Space
from fletcher.serve.files.embed_file import embed_file
from fletcher.serve.files.texts import open_texts
from fletcher.serve.longbow.job.capacity import CapacityWatch
from fletcher.serve.longbow.job.documents import DeadLetters
from fletcher.serve.longbow.job.job import Ingestion, journal_facts
from fletcher.serve.longbow.job.spec import Job
from fletcher.serve.longbow.job.summary import IngestSummary
from fletcher.serve.longbow.journal.journal import Journal
from fletcher.serve.longbow.options import LongbowOptions
from fletcher.serve.longbow.wire.schema import longbow_schema, make_batch
from fletcher.serve.longbow.wire.sink import Parcel, Sink
from fletcher.serve.longbow.wire.target import Target
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

ROOT = Path(__file__).resolve().parents[2]
DIMENSION = 384


class Instant:
    """`Instant`: an engine that repeats the same 4,096 vectors of length 1."""

    def __init__(self) -> None:
        self.info = ModelInfo(
            card=ModelCard(
                name="instant",
                family="none",
                dimension=DIMENSION,
                max_tokens=256,
                pooling=("mean",),
                normalize=True,
                license="Apache-2.0",
            ),
            digest="0" * 64,
            variant="none",
            provider="none",
            provider_name="none",
            dimension=DIMENSION,
            max_tokens=256,
            outputs=("vectors",),
            workers=1,
            space=Space(
                weights="none",
                graph="none",
                tokenizer="none",
                precision="float",
                output="vectors",
                dimension=DIMENSION,
                normalize=True,
                max_tokens=256,
                cut="right",
            ),
            token_budget=1024,
        )
        vectors = np.random.default_rng(0).standard_normal((4096, DIMENSION)).astype(np.float32)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def stream(self, chunks: Iterable[Sequence[str]], options: EmbedOptions) -> Iterator[Embeddings]:
        for texts in chunks:
            count = len(texts)
            yield Embeddings(self.vectors[:count], np.ones(count, np.int64), np.zeros(count, np.int32))


@contextmanager
def stand_in(*options: str) -> Iterator[str]:
    """Start the stand-in for Longbow in another process, and yield its address."""
    command = [sys.executable, "-m", "tests.doubles.longbow", *options]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield json.loads(process.stdout.readline())[0]
        process.stdin.close()


def job(encoder: Any, path: Path, url: str, dataset: str, folder: Path) -> IngestSummary:
    """Run one job with a new journal, and return its summary."""
    spec = Job(str(path), LongbowOptions(longbow=url, dataset=dataset))
    with (
        open_texts(str(path)) as source,
        Journal(folder / f"{dataset}.journal", journal_facts(encoder, spec)) as journal,
        CapacityWatch(None) as watch,
    ):
        return Ingestion(
            cast(Encoder, encoder), spec, source, journal, DeadLetters(None, True), watch=watch, progress=SILENT
        ).run()


def throughput(artifact: Path, count: int, rounds: int) -> dict[str, Any]:
    """Measure the texts per second of `embed` and of `ingest`, in turns."""
    texts = [" ".join(text.split()) for text in corpus("docstrings", count)]
    texts = [f"{number} {text}" for number, text in enumerate(texts)]  # different texts, because both skip duplicates
    rates: dict[str, list[float]] = {"embed": [], "ingest": []}
    with tempfile.TemporaryDirectory() as name, stand_in() as url, Encoder.load(artifact) as encoder:
        folder = Path(name)
        path = folder / "texts.txt"
        path.write_text("\n".join(texts) + "\n")
        for turn in range(-1, rounds):  # the first turn is not counted
            with open_texts(str(path)) as source:
                embedded = embed_file(
                    encoder, source, folder / "out.arrow", options=EmbedOptions(), force=True, progress=SILENT
                )
            ingested = job(encoder, path, url, f"turn{turn}", folder)
            assert embedded.texts == ingested.sent == len(texts)
            if turn >= 0:
                rates["embed"].append(embedded.texts_per_second)
                rates["ingest"].append(ingested.rows_per_second)
    ratios = [ours / theirs for ours, theirs in zip(rates["ingest"], rates["embed"], strict=True)]
    return {"texts": len(texts), "rates": rates, "ratio_median": round(statistics.median(ratios), 4), "ratios": ratios}


def sink(rows: int, rounds: int) -> dict[str, Any]:
    """Measure the vectors per second on one stream: of sink and journal with computed batches, then of the complete job."""
    encoder = Instant()
    schema = longbow_schema(DIMENSION, with_text=True)
    report: dict[str, Any] = {"rows": rows, "sink": [], "job": []}
    with tempfile.TemporaryDirectory() as name, stand_in("--count-only") as url:
        folder = Path(name)
        path = folder / "texts.txt"
        path.write_text("".join(f"text number {number}\n" for number in range(rows)))
        texts = [f"text number {number}" for number in range(1024)]
        ready = make_batch(schema, np.arange(1024), encoder.vectors[:1024], texts, ['{"model":"instant"}'] * 1024)
        for turn in range(rounds):
            with Journal(folder / f"{turn}.sink", {}) as journal, Sink(Target(url), f"s{turn}", schema, journal) as one:
                started = time.perf_counter()
                for unit in range(1, rows // 1024 + 1):
                    one.send(Parcel(unit, journal.mark(unit), ready))
                one.flush()
                report["sink"].append(round(rows // 1024 * 1024 / (time.perf_counter() - started)))
            report["job"].append(round(job(encoder, path, url, f"j{turn}", folder).rows_per_second))
    return report


def latency(artifact: Path, count: int) -> dict[str, Any]:
    """Measure the milliseconds from one text to its acknowledgment."""
    texts = [f"{number} how far is the nearest vector from here" for number in range(count)]
    with stand_in() as url, Encoder.load(artifact) as encoder:
        with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off", longbow=url)) as server:
            address = str(server.addresses.http).removeprefix("http://")
            connection = http.client.HTTPConnection(address)
            taken = []
            for number, text in enumerate(texts):
                body = json.dumps({"dataset": "one", "documents": [{"text": text, "id": number}]})
                started = time.perf_counter()
                connection.request("POST", "/v1/ingest", body)
                answer = connection.getresponse()
                content = answer.read()
                taken.append(1000 * (time.perf_counter() - started))
                assert answer.status == 200, content
            connection.close()
        alone = []
        for text in texts:
            started = time.perf_counter()
            encoder.embed([text + " "])
            alone.append(1000 * (time.perf_counter() - started))
    taken, alone = taken[20:], alone[20:]
    return {
        "model": encoder.card.name,
        "texts": len(taken),
        "http_to_acknowledged_ms": {"p50": round(statistics.median(taken), 2), "p99": _p99(taken)},
        "embedding_alone_ms": {"p50": round(statistics.median(alone), 2), "p99": _p99(alone)},
    }


def _p99(values: Sequence[float]) -> float:
    return round(float(np.percentile(values, 99)), 2)


def memory(rows: int) -> dict[str, Any]:
    """Measure the peak memory of a job, and of reading and computing alone, each in a separate process."""
    report: dict[str, Any] = {"rows": rows}
    with tempfile.TemporaryDirectory() as name, stand_in("--count-only") as url:
        path = Path(name) / "texts.txt"
        with path.open("w") as file:
            file.writelines(f"this is the text number {number} of a job of many\n" for number in range(rows))
        for kind in ("engine", "job"):
            command = [sys.executable, __file__, "child", kind, str(path), url]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            report[kind] = json.loads(done.stdout)
    report["above_engine_mb"] = round(report["job"]["peak_mb"] - report["engine"]["peak_mb"], 1)
    return report


def child(kind: str, path: Path, url: str) -> dict[str, Any]:
    """Run as the process whose peak memory is measured."""
    encoder = Instant()
    started = time.perf_counter()
    if kind == "job":
        job(encoder, path, url, "million", path.parent)
    else:
        with open_texts(str(path)) as source:
            for _ in encoder.stream((chunk.texts for chunk in source.chunks), EmbedOptions()):
                pass
    seconds = time.perf_counter() - started
    return {
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run one of the benchmarks, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "sink", "latency", "memory", "child"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "throughput":
        report = throughput(Path(options.arguments[0]), options.rows or 3000, options.rounds)
    elif options.what == "sink":
        report = sink(options.rows or 500_000, options.rounds)
    elif options.what == "latency":
        report = latency(Path(options.arguments[0]), options.rows or 500)
    elif options.what == "memory":
        report = memory(options.rows or 1_000_000)
    else:
        report = child(options.arguments[0], Path(options.arguments[1]), options.arguments[2])
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
