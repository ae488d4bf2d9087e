"""Client process of the Flight loads: one DoExchange stream, which is read while it is written.

    python -m benchmarks.serve.gpu_parts.flight_load SPEC

SPEC is a JSON file with the fields of `FlightSpec`. The process connects and prints `ready`; then it reads a line with two
times of the monotonic clock, writes batches at once, as many as the server takes, and measures between the two times. It
writes latencies and sampled vectors to a file of numpy's and prints one line of JSON. A stream that ends early is an error,
and another one is opened.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

#: Seconds until another stream is opened after a failure.
PAUSE = 0.1

#: Rows of a sampled batch whose vectors are kept.
SAMPLE_ROWS = 512


@dataclass(frozen=True, slots=True)
class FlightSpec:
    """Work of the process.

    Attributes:
        url: the server's URL.
        pool: JSON file of the texts.
        texts: rows of a batch.
        dtype: type of the vectors' elements.
        client: number of this process, from 0.
        clients: number of processes; each starts at another place of the pool.
        samples: batches whose vectors are kept.
        output: file for latencies and sampled vectors.
    """

    url: str
    pool: str
    texts: int
    dtype: str
    client: int
    clients: int
    samples: int
    output: str


class Load:
    """Batches and results of the process."""

    def __init__(self, spec: FlightSpec) -> None:
        self.spec = spec
        texts = json.loads(Path(spec.pool).read_text())
        self.count = len(texts)
        # The pool twice, so that a batch may reach over its end.
        column = pa.chunked_array([pa.array(texts)] * (1 + spec.texts // self.count + 1)).combine_chunks()
        first = spec.client * self.count // spec.clients
        self.starts = [(first + start) % self.count for start in range(0, max(self.count, spec.texts), spec.texts)]
        self.batches = [pa.record_batch({"text": column.slice(start, spec.texts)}) for start in self.starts]
        self.begin = self.end = 0.0
        self.position = 0
        self.received: list[float] = []  # time of each answered batch
        self.latencies: list[tuple[float, float]] = []  # times of sending and of the answer
        self.errors: Counter[str] = Counter()
        self.samples: list[tuple[int, Any]] = []  # start of the batch, answered batch

    def stream(self, client: Any) -> None:
        """Run one stream until the measurement ends."""
        descriptor = fl.FlightDescriptor.for_command(json.dumps({"dtype": self.spec.dtype}).encode())
        writer, reader = client.do_exchange(descriptor)
        sent: list[tuple[int, float]] = []  # start of each batch that was written, time before the writing
        failed = threading.Event()

        def write() -> None:
            try:
                writer.begin(self.batches[0].schema)
                while time.monotonic() < self.end and not failed.is_set():
                    number = self.position
                    self.position = (number + 1) % len(self.batches)
                    sent.append((self.starts[number], time.monotonic()))
                    writer.write_batch(self.batches[number])
                writer.done_writing()
            except (pa.ArrowException, OSError):
                pass  # the reader gets the reason

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        answered = 0
        try:
            while True:
                try:
                    chunk = reader.read_chunk()
                except StopIteration:
                    break
                now = time.monotonic()
                if chunk.data is None:
                    continue
                start, at = sent[answered]
                answered += 1
                if chunk.data.num_rows != self.spec.texts:
                    self.errors[f"an answer of {chunk.data.num_rows} rows"] += 1
                self.received.append(now)
                self.latencies.append((at, now))
                if now >= self.begin and len(self.samples) < self.spec.samples:
                    self.samples.append((start, chunk.data))
            thread.join(PAUSE)
            if answered < len(sent) or thread.is_alive():
                self.errors["the stream ended before all batches were answered"] += 1
        except (pa.ArrowException, OSError) as error:
            self.errors[f"{type(error).__name__}: {str(error).partition('. gRPC')[0][:200]}"] += 1
        finally:
            failed.set()
            thread.join(PAUSE)
            writer.close() if not thread.is_alive() else reader.cancel()

    def run(self) -> None:
        """Run streams until the measurement ends."""
        with fl.connect(self.spec.url) as client:
            list(client.list_flights())  # connects
            print("ready", flush=True)
            self.begin, self.end = map(float, sys.stdin.readline().split())
            started = time.monotonic()
            self.received.append(started)
            while time.monotonic() < self.end:
                errors = sum(self.errors.values())
                try:
                    self.stream(client)
                except (pa.ArrowException, OSError) as error:
                    self.errors[f"{type(error).__name__} at the end of a stream"] += sum(self.errors.values()) == errors
                if sum(self.errors.values()) > errors:
                    time.sleep(PAUSE)

    def rows(self) -> float:
        """Return the rows of the measured time. A batch counts in proportion to the time since the answer before it."""
        done = np.arange(len(self.received)) * self.spec.texts
        return float(np.interp(self.end, self.received, done) - np.interp(self.begin, self.received, done))

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the sampled texts, and their vectors."""
        indices: list[int] = []
        vectors = []
        for start, batch in self.samples:
            rows = min(batch.num_rows, SAMPLE_ROWS)
            # The last rows of a batch, which a shift inside the batch would move.
            column = batch.column("vector").slice(batch.num_rows - rows)
            values = column.flatten().to_numpy(zero_copy_only=False)
            vectors.append(np.asarray(values, np.float32).reshape(rows, -1))
            indices += [(start + batch.num_rows - rows + row) % self.count for row in range(rows)]
        return np.array(indices, np.int64), np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)


def main() -> None:
    """Run the process."""
    spec = FlightSpec(**json.loads(Path(sys.argv[1]).read_text()))
    load = Load(spec)
    cpu: list[float] = []

    def watch() -> None:
        while not load.end:
            time.sleep(0.01)
        for moment in (load.begin, load.end):
            time.sleep(max(moment - time.monotonic(), 0.0))
            cpu.append(time.process_time())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    load.run()
    watcher.join(5.0)
    indices, vectors = load.sampled()
    measured = [1000 * (to - at) for at, to in load.latencies if load.begin <= to < load.end]
    np.savez(spec.output, milliseconds=np.array(measured), indices=indices, vectors=vectors)
    result = {
        "texts": load.rows(),
        "requests": len(measured),
        "cpu_seconds": cpu[1] - cpu[0] if len(cpu) == 2 else 0.0,
        "errors": +load.errors,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
