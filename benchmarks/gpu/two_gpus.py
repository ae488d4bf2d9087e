"""Speed of two GPUs behind a `Fleet` against one, equality and order of the vectors, and failure of a GPU during a run.

    python -m benchmarks.gpu.two_gpus ARTIFACT [--variant NAME] [--texts 40000] [--rounds 5] [--output FILE.json]
    python -m benchmarks.gpu.two_gpus ARTIFACT --cpu --texts 300 --rounds 1        the same logic on two CPU sessions

Ragged texts in arrival order, about 60 tokens on average, run through `Encoder`, which tokenizes while it computes.
Rounds are interleaved: token ids on one GPU and on two, texts on one and on two. Then the second GPU's session raises
`DeviceLostError` during a run: no vector may be missing, and all must be in order and equal to the first GPU's.
Afterwards the GPU is opened again, checked by the artifact's canary, and must compute again. The benchmark also
measures the cost of the fleet's dispatch per batch, on sessions that compute nothing. The exit status is 1 if a check
fails; without --cpu that includes the ratio of throughputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.gpu.texts import ragged_texts
from numpy.typing import NDArray

from fletcher import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import HALF_VECTORS, Variant
from fletcher.runtime.batch import Batch
from fletcher.runtime.canary import read_canary, require_session
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import DeviceLostError, ProviderError
from fletcher.runtime.fleet.fleet import Fleet
from fletcher.runtime.fleet.member import FleetDevice
from fletcher.runtime.loading import Loaded
from fletcher.runtime.machine.gpus import SLOTS, this_gpus
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.selection import find_provider
from fletcher.runtime.session.session import Session
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.runtime.workers.pool import Workers

#: Smallest ratio of the throughput of two GPUs to that of one.
LEAST_SPEEDUP = 1.85
#: Smallest cosine of a text's vectors on two devices, whose batches differ in rounding.
SAME = 0.9999


class Borrowed(Session):
    """`Borrowed`: a session that its owner closes, and that fails from one run on.

    Attributes:
        runs: number of runs so far.
    """

    def __init__(self, session: Session, fails_from: int | None = None) -> None:
        self.provider = session.provider
        self.runs = 0
        self._session, self._fails_from = session, fails_from
        self._lock = threading.Lock()

    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        with self._lock:
            self.runs += 1
            fails = self._fails_from is not None and self.runs >= self._fails_from
        if fails:
            raise DeviceLostError("the benchmark made the device fail")
        return self._session.run(batch, output)

    def close(self) -> None:
        """Do nothing: the owner closes the session."""


class Idle(Borrowed):
    """`Idle`: a session that returns without computing."""

    provider = "none"

    def __init__(self) -> None:
        self.values = np.zeros((1, 1), np.float32)

    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        return self.values


class Bench:
    """`Bench`: two open sessions, and encoders whose fleets share them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.artifact = artifact = Artifact.open(args.artifact)
        self.tokenizer = Tokenizer(artifact.tokenizer_file, artifact.manifest.card.max_tokens)
        self.args = args
        first = next((variant.name for variant in artifact.manifest.variants if variant.target == "cuda"), None)
        self.variant: Variant = artifact.variant(args.variant or (None if args.cpu else first))
        self.sessions, self.places, self.devices = open_two(artifact, self.variant, cpu=args.cpu)
        self.provider = find_provider("mlas" if args.cpu else "cuda")
        layout = self.provider.default_layout(this_machine())
        self.token_budget = args.token_budget or layout.token_budget
        self.texts = ragged_texts(args.texts)
        self.encodings = self.tokenizer.encode(self.texts)

    def encoder(self, count: int, *, fails_from: int | None = None, retry: float = 3600.0) -> Encoder:
        """Return an encoder on a fleet of the first devices; the last device fails from one run on, and is opened again."""
        canary, card = read_canary(self.artifact.canary_file), self.artifact.manifest.card
        devices = [
            FleetDevice(
                f"gpu:{index}",
                Borrowed(session, fails_from if index == count - 1 else None),
                self.args.slots,
                self.places[index],
                open=partial(Borrowed, session),
            )
            for index, session in enumerate(self.sessions[:count])
        ]
        fleet = Fleet(
            devices,
            check=lambda session: require_session(session, canary, card.output, self.variant.tolerance),
            first_retry=retry,
        )
        workers = Workers(
            fleet,
            self.variant.outputs,
            name=str(self.artifact.path),
            count=fleet.slots,
            token_budget=self.token_budget,
        )
        loaded = Loaded(
            self.variant, self.provider.name, self.tokenizer, workers, None, "benchmark", self.variant.tolerance
        )
        return Encoder(self.artifact, loaded)

    def on_ids(self, encoder: Encoder) -> NDArray[Any]:
        """Return the vectors of all texts, from token ids."""
        return encoder.compute(self.encodings, None if self.args.cpu else HALF_VECTORS)

    def on_texts(self, encoder: Encoder) -> NDArray[Any]:
        """Return the vectors of all texts, from texts."""
        return encoder.embed(self.texts, dtype="float32" if self.args.cpu else "float16").vectors


def open_two(
    artifact: Artifact, variant: Variant, *, cpu: bool
) -> tuple[list[Session], list[tuple[int, ...]], list[str]]:
    """Open two sessions, and return them with the nearest processors and the devices' names."""
    if cpu:
        return [open_session(artifact, variant) for _ in range(2)], [(), ()], ["cpu", "cpu"]
    from fletcher.runtime.providers.cuda.session import open_cuda

    system = this_gpus()
    if len(system.gpus) < 2:
        raise ProviderError(
            f"two GPUs are needed, and there are {len(system.gpus)}: {system.problem or 'no problem reported'}"
        )
    gpus = system.gpus[:2]
    sessions: list[Session] = [open_cuda(artifact, variant, gpu) for gpu in gpus]
    return sessions, [gpu.processors for gpu in gpus], [f"{gpu.name} {gpu.pci}" for gpu in gpus]


def compare(vectors: NDArray[Any], expected: NDArray[Any]) -> dict[str, Any]:
    """Check that each text's vector is near its expected vector, and less near to the neighbor's; return the figures."""
    vectors, expected = vectors.astype(np.float64), expected.astype(np.float64)
    vectors, expected = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, expected))
    own = (vectors * expected).sum(axis=1)
    neighbor = (vectors * np.roll(expected, 1, axis=0)).sum(axis=1)
    ordered = float(np.mean(own > neighbor))
    return {
        "texts": len(vectors),
        "min_cosine": float(own.min()),
        "max_abs": float(np.abs(vectors - expected).max()),
        "nearer_to_own_than_to_neighbor": ordered,
        "passed": bool(len(vectors) == len(expected) and own.min() >= SAME and ordered > 0.99),
    }


def measure_rounds(bench: Bench) -> tuple[dict[str, Any], NDArray[Any]]:
    """Run interleaved rounds, and return the report and the first GPU's vectors."""
    encoders = {"one": bench.encoder(1), "two": bench.encoder(2)}
    ways: dict[str, Callable[[Encoder], NDArray[Any]]] = {"ids": bench.on_ids, "texts": bench.on_texts}
    rates: dict[str, list[float]] = {f"{way}_{number}": [] for way in ways for number in encoders}
    checks: dict[str, Any] = {}
    reference = bench.on_ids(encoders["one"])  # also warms up
    bench.on_ids(encoders["two"])
    for turn in range(bench.args.rounds):
        for way, run in ways.items():
            for number, encoder in list(encoders.items())[:: -1 if turn % 2 else 1]:
                started = time.perf_counter()
                vectors = run(encoder)
                rates[f"{way}_{number}"].append(len(bench.texts) / (time.perf_counter() - started))
                checks[f"{way}_{number}"] = compare(vectors, reference)
    shares = {metric.device: metric.value() for metric in metrics_of(encoders["two"], "fletcher_gpu_weight")}
    for encoder in encoders.values():
        encoder.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    report = {
        "texts_per_second": rates,
        "median": medians,
        "two_to_one": {way: medians[f"{way}_two"] / medians[f"{way}_one"] for way in ways},
        "weights": shares,
        "checks": checks,
    }
    return report, reference


def fail_in_mid_run(bench: Bench, reference: NDArray[Any]) -> dict[str, Any]:
    """Make the second GPU fail after a few batches, and check that it computes again after the run."""
    probe = bench.encoder(2)
    bench.on_ids(probe)
    share = next(m.value() for m in metrics_of(probe, "fletcher_gpu_batch_count_total") if m.device == "gpu:1")
    probe.close()
    fails_from = max(1, int(share / 3))
    encoder = bench.encoder(2, fails_from=fails_from, retry=5.0)
    lost = compare(bench.on_ids(encoder), reference)
    after = counts(encoder)
    deadline = time.monotonic() + 60
    while not all(m.value() for m in metrics_of(encoder, "fletcher_gpu_in_service")) and time.monotonic() < deadline:
        time.sleep(0.05)
    back = compare(bench.on_ids(encoder), reference)
    later = counts(encoder)
    encoder.close()
    sequences = sum(counted["fletcher_gpu_sequences_total"] for counted in after.values())
    passed = (
        lost["passed"]
        and back["passed"]
        and after["gpu:1"]["fletcher_gpu_outages_total"] == 1
        and sequences == len(bench.texts)
        and later["gpu:1"]["fletcher_gpu_sequences_total"] > after["gpu:1"]["fletcher_gpu_sequences_total"]
    )
    return {"fails_from_run": fails_from, "lost": lost, "back": back, "after": after, "later": later, "passed": passed}


def metrics_of(encoder: Encoder, name: str) -> list[Any]:
    return [metric for metric in encoder.metrics().devices if metric.name == name]


def counts(encoder: Encoder) -> dict[str, dict[str, float]]:
    """Return the value of every metric by device."""
    values: dict[str, dict[str, float]] = {}
    for metric in encoder.metrics().devices:
        values.setdefault(metric.device, {})[metric.name] = metric.value()
    return values


def dispatch_microseconds(runs: int = 20_000) -> float:
    """Return the time that a fleet of two adds to a batch, best of five."""
    batch = Encodings.from_lists([[1, 2, 3]])
    times = []
    with Fleet([FleetDevice("a", Idle()), FleetDevice("b", Idle())]) as fleet:
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(runs):
                fleet.run(batch)
            times.append((time.perf_counter() - started) / runs * 1e6)
    return min(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--texts", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--token-budget", type=int, help="token budget. Default: that of `Encoder.load`.")
    parser.add_argument("--slots", type=int, default=SLOTS, help="batches in flight on each GPU")
    parser.add_argument("--cpu", action="store_true", help="use two CPU sessions instead of two GPUs")
    parser.add_argument("--output", type=Path)
    bench = Bench(parser.parse_args(arguments))
    rounds, reference = measure_rounds(bench)
    failure = fail_in_mid_run(bench, reference)
    for session in bench.sessions:
        session.close()
    fast = bench.args.cpu or rounds["two_to_one"]["texts"] >= LEAST_SPEEDUP
    report = {
        "artifact": bench.artifact.manifest.card.name,
        "variant": bench.variant.name,
        "devices": bench.devices,
        "texts": len(bench.texts),
        "mean_tokens": bench.encodings.num_tokens / len(bench.texts),
        "token_budget": bench.token_budget,
        "slots": bench.args.slots,
        **rounds,
        "least_two_to_one": LEAST_SPEEDUP,
        "failure": failure,
        "dispatch_microseconds": dispatch_microseconds(),
        "passed": bool(fast and failure["passed"] and all(check["passed"] for check in rounds["checks"].values())),
    }
    text = json.dumps(report, indent=1)
    if bench.args.output is not None:
        bench.args.output.write_text(text)
    print(text)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
