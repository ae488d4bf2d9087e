"""Cost of `exact`, and the difference that it removes, by the length of the texts.

    python benchmarks/exact/run.py ARTIFACT [--provider mlas] [--rounds 5]

Texts of about the same length run through one session on one thread: in batches of the default token budget, in batches of
equal lengths, and each in a batch of its own, as `exact` computes them. The report gives the processor time relative to the
default batches, and the largest difference of an element from the text alone. Processor time is the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.convert.texts import SENTENCES
from fletcher.runtime import Artifact, Encodings
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.processor import TOKEN_BUDGET
from fletcher.runtime.session.session import Session
from fletcher.runtime.workers.planning import plan_batches

#: Sentences that one text is joined of, and number of texts.
KINDS = ((1, 64), (3, 40), (40, 8))

Batches = Sequence[NDArray[np.int64]]


def run(session: Session, encodings: Encodings, batches: Batches) -> tuple[float, NDArray[np.float32]]:
    """Return the seconds of processor time and the vectors of all texts."""
    started = time.process_time()
    values = [session.run(encodings.select(rows)) for rows in batches]
    seconds = time.process_time() - started
    vectors = np.empty((len(encodings), values[0].shape[1]), np.float32)
    vectors[np.concatenate(batches)] = np.concatenate(values)
    return seconds, vectors


def equal_lengths(encodings: Encodings) -> Batches:
    """Return batches of texts of equal length, of at most the default token budget."""
    batches: list[NDArray[np.int64]] = []
    for length in np.unique(encodings.lengths):
        rows = np.flatnonzero(encodings.lengths == length)
        size = max(TOKEN_BUDGET // int(length), 1)
        batches += [rows[start : start + size] for start in range(0, len(rows), size)]
    return batches


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--provider", default="mlas")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    artifact = Artifact.open(options.artifact)
    tokenizer = open_tokenizer(artifact)
    print("tokens per text | batches | relative processor time | largest difference from the text alone")
    with open_session(artifact, artifact.variant(), provider=options.provider, threads=1) as session:
        for joined, count in KINDS:
            texts = [" ".join(SENTENCES[(row + k) % len(SENTENCES)] for k in range(joined)) for row in range(count)]
            encodings = tokenizer.encode(texts)
            kinds: dict[str, Batches] = {
                "default": plan_batches(encodings.lengths, TOKEN_BUDGET),
                "equal lengths": equal_lengths(encodings),
                "exact": [np.array([row]) for row in range(count)],
            }
            rounds = [{name: run(session, encodings, batches) for name, batches in kinds.items()}]
            rounds += [{name: run(session, encodings, kinds[name]) for name in kinds} for _ in range(options.rounds)]
            seconds = {name: statistics.median(one[name][0] for one in rounds[1:]) for name in kinds}
            alone = rounds[0]["exact"][1]
            for name in kinds:
                apart = max(float(np.abs(one[name][1] - alone).max()) for one in rounds)
                mean = encodings.num_tokens / count
                print(f"{mean:.0f} | {name} | {seconds[name] / seconds['default']:.2f} | {apart:.1e}")


if __name__ == "__main__":
    main()
