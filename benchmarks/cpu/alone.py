"""Time of a batch that runs alone: one text, on one thread and on all processors, for every provider.

    python benchmarks/cpu/alone.py ARTIFACT [--seconds 5] [--busy 1]

For each length the benchmark prints the seconds on all processors over those on one, lower quartile and 90th percentile
of the runs, which take turns. ONNX Runtime runs without spinning, with the bound that Fletcher sets, and without a
bound. With `--busy`, other processes compute at the same time; the bound limits the loss in this case.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from fletcher.runtime import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.canary import read_canary
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.mlas import session as mlas
from fletcher.runtime.providers.needs import missing
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.selection import all_providers
from fletcher.runtime.session.session import Session
from fletcher.runtime.tuning.trial import cut_rows

LENGTHS = (12, 40, 128)

#: Time that a waiting thread spins, microseconds.
SPINNING = {"no spinning": 0, "bounded": mlas.SPIN_MICROSECONDS, "unbounded": 1_000_000}


def main() -> None:
    """Run the comparison, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each length")
    parser.add_argument("--busy", type=int, default=0, help="number of other processes that compute")
    options = parser.parse_args()
    artifact = Artifact.open(options.artifact)
    with ExitStack() as stack:
        sessions = open_sessions(stack, artifact, artifact.variant())
        stack.enter_context(busy(options.busy))
        for length in LENGTHS:
            text = cut_rows(read_canary(artifact.canary_file).encodings, [length])
            taken: dict[str, list[float]] = {name: [] for name in sessions}
            for session in sessions.values():
                session.run(text)
            ends = time.monotonic() + options.seconds
            while time.monotonic() < ends:
                for name, session in sessions.items():
                    started = time.perf_counter()
                    session.run(text)
                    taken[name].append(time.perf_counter() - started)
            print(json.dumps({"tokens": length, "runs": len(taken["mlas"])} | ratios(taken)), flush=True)


def open_sessions(stack: ExitStack, artifact: Artifact, variant: Variant) -> dict[str, Session]:
    """Open sessions on one thread, by provider, and on all processors, by provider and kind of spinning."""
    machine = this_machine()
    usable = [provider for provider in all_providers() if missing(provider, machine) is None]
    sessions: dict[str, Session] = {}
    for name in (provider.name for provider in usable if variant.target in provider.targets):
        sessions[name] = stack.enter_context(open_session(artifact, variant, provider=name))
        for kind, microseconds in SPINNING.items() if name == "mlas" else {"all": 0}.items():
            mlas.SPIN_MICROSECONDS = microseconds
            opened = open_session(artifact, variant, provider=name, threads=len(machine.processors))
            sessions[f"{name}, {kind}"] = stack.enter_context(opened)
    return sessions


def ratios(taken: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the time of each session over that of its provider's single thread: lower quartile and 90th percentile."""
    ratios_by_name = {}
    for name, seconds in taken.items():
        single = taken[name.partition(",")[0]]
        if seconds is not single:
            both = np.quantile(seconds, (0.25, 0.9)) / np.quantile(single, (0.25, 0.9))
            ratios_by_name[name] = [round(float(ratio), 2) for ratio in both]
    return ratios_by_name


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Start processes that compute until the context or this process ends."""
    children = [multiprocessing.Process(target=_compute, args=(os.getpid(),), daemon=True) for _ in range(count)]
    for child in children:
        child.start()
    try:
        yield
    finally:
        for child in children:
            child.terminate()
            child.join()


def _compute(parent: int) -> None:
    matrix = np.ones((256, 256), np.float32)
    while os.getppid() == parent:
        matrix = np.minimum(matrix @ matrix, 1)


if __name__ == "__main__":
    main()
