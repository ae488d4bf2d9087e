"""Throughput of the CPU by token budget, order of texts, and layout of workers.

    python benchmarks/batching/run.py ARTIFACT [--texts 600] [--rounds 3]

Ragged batches of random token ids (log-normal lengths, mean about 53, at most 256) run through the artifact's session
with several token budgets, sorted by length and in arrival order, on workers of one thread each and on one session with
all threads. Rounds are interleaved. The report gives the best round of each case, relative to the runtime's default.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Artifact, Encodings
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.processor import TOKEN_BUDGET
from fletcher.runtime.workers.planning import plan_batches

BUDGETS = (128, 256, 512, 1024, 2048, 4096, 8192)


def arrival_batches(lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Return batches of at most `budget` tokens in arrival order, as a server without sorting forms them."""
    batches: list[list[int]] = [[]]
    held = 0
    for row, length in enumerate(lengths.tolist()):
        if batches[-1] and held + length > budget:
            batches.append([])
            held = 0
        batches[-1].append(row)
        held += length
    return [np.array(batch, np.int64) for batch in batches]


def main() -> None:
    """Run the comparison, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    artifact = Artifact.open(args.artifact)
    threads = len(this_machine().processors)
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(random.normal(3.7, 0.8, args.texts)), 3, artifact.manifest.card.max_tokens).astype(
        np.int64
    )
    texts = Encodings.from_lists([random.integers(0, 1000, length).astype(np.int32) for length in lengths])
    narrow = open_session(artifact, artifact.variant(), threads=1)
    wide = open_session(artifact, artifact.variant(), threads=threads)

    best: dict[tuple[int, str, str], float] = {}
    with ThreadPoolExecutor(threads) as pool:

        def on_workers(batches: list[Encodings]) -> None:
            list(pool.map(narrow.run, batches))

        def on_wide(batches: list[Encodings]) -> None:
            for batch in batches:
                wide.run(batch)

        runners: dict[str, Callable[[list[Encodings]], None]] = {"workers": on_workers, "wide": on_wide}
        for _ in range(args.rounds):
            for budget in BUDGETS:
                orders = {"sorted": plan_batches(lengths, budget), "arrival": arrival_batches(lengths, budget)}
                for order, plan in orders.items():
                    batches = [texts.select(rows) for rows in plan]
                    for name, runner in runners.items():
                        start = time.perf_counter()
                        runner(batches)
                        seconds = time.perf_counter() - start
                        key = (budget, order, name)
                        best[key] = min(best.get(key, seconds), seconds)

    default = best[TOKEN_BUDGET, "sorted", "workers"]
    print(f"throughput relative to the default: {TOKEN_BUDGET} tokens, sorted, {threads} workers")
    print(f"texts of {lengths.mean():.0f} tokens on average")
    print(
        f"{'budget':>7}" + "".join(f"{order + ' ' + name:>17}" for order in ("sorted", "arrival") for name in runners)
    )
    for budget in BUDGETS:
        cells = [default / best[budget, order, name] for order in ("sorted", "arrival") for name in runners]
        print(f"{budget:>7}" + "".join(f"{cell:>17.2f}" for cell in cells))
    print(
        json.dumps(
            {f"{budget}/{order}/{name}": round(default / time_, 3) for (budget, order, name), time_ in best.items()}
        )
    )
    narrow.close()
    wide.close()


if __name__ == "__main__":
    main()
