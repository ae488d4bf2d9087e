"""`Trial`: open session of a layout that is measured, and the texts of the measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..canary import Canary, CanaryResult
from ..closing import Closing
from ..encodings import Encodings
from ..machine.affinity import pinning
from ..machine.machine import Machine
from ..providers.opening import open_session
from ..providers.worker_layout import WorkerLayout
from ..workers.pool import Workers

__all__ = ["Trial", "cut_rows", "latencies", "ragged_sample", "short_text"]

#: Mean and standard deviation of the logarithm of text lengths in the sample: lengths of about 60 tokens on average with a
#: long tail, as in documentation.
LOG_MEAN, LOG_SPREAD = 3.6, 1.0

#: Tokens of the text whose latency is measured, smallest and largest number of runs, and seconds after which runs stop once
#: the smallest number is reached.
SHORT_TOKENS, FEWEST_RUNS, MOST_RUNS, RUNS_SECONDS = 12, 5, 40, 0.1

#: Quantile of the runs that is the latency. Other work on the machine during most of the runs changes the median, and hardly
#: this quantile.
QUARTILE = 0.25


class Trial(Closing):
    """`Trial`: session and worker threads, as in an encoder. A context manager that closes them."""

    def __init__(self, artifact: Artifact, variant: Variant, layout: WorkerLayout, machine: Machine) -> None:
        """Open a session and start its threads.

        Args:
            artifact: artifact to measure.
            variant: variant of the artifact.
            layout: provider, workers and threads.
            machine: machine whose NUMA nodes the threads are pinned to, if it has several.

        Raises:
            FletcherError: any error of `open_session`.
        """
        self.layout = layout
        self._artifact = artifact
        self._tolerance = variant.tolerance
        self._session = open_session(
            artifact, variant, provider=layout.provider, threads=layout.threads, workers=layout.workers
        )
        self._workers = Workers(
            self._session,
            variant.outputs,
            name=variant.name,
            count=layout.workers,
            token_budget=layout.token_budget,
            initializer=pinning(layout.workers, machine),
        )

    def latency(self, text: Encodings) -> float:
        """Return the seconds of one text, the lower quartile of several runs after a first one that allocates buffers."""
        return latencies([self], text)[0]

    def accuracy(self, canary: Canary) -> CanaryResult:
        """Compare the vectors of the canary with the reference."""
        vectors = self._workers.compute(canary.encodings)
        return canary.judge(vectors, self._artifact.manifest.card.output, self._tolerance)

    def compute(self, texts: Encodings) -> NDArray[np.float32]:
        """Compute any number of texts on all workers and return their vectors, (n, dimension)."""
        return self._workers.compute(texts)

    def run(self, batch: Encodings) -> NDArray[np.float32]:
        """Compute texts as one batch on the calling thread and return their vectors, (n, dimension)."""
        return self._session.run(batch)

    def seconds(self, texts: Encodings, token_budget: int) -> float:
        """Return the seconds that all workers together need for texts."""
        self._workers.token_budget = token_budget
        started = time.perf_counter()
        self._workers.compute(texts)
        return time.perf_counter() - started

    def close(self) -> None:
        """Release the memory."""
        self._workers.close()


def latencies(trials: Sequence[Trial], text: Encodings) -> list[float]:
    """Return the seconds of one text on each trial; the trials run in turn. See `Trial.latency`."""
    for trial in trials:
        trial.compute(text)
    started = time.perf_counter()
    runs: list[list[float]] = []  # (runs, trials)
    while len(runs) < FEWEST_RUNS or (len(runs) < MOST_RUNS and time.perf_counter() - started < RUNS_SECONDS):
        runs.append([trial.seconds(text, trial.layout.token_budget) for trial in trials])
    return [float(seconds) for seconds in np.quantile(runs, QUARTILE, axis=0)]


def ragged_sample(encodings: Encodings, tokens: int) -> Encodings:
    """Return rows of token ids with lengths as in documentation, cut from real texts.

    Args:
        encodings: real texts with at least one token.
        tokens: smallest total number of tokens.

    Returns:
        Rows with `tokens` tokens in total or a few more. Each row is at most as long as the longest real text, or 3 tokens.
        The result is the same at each call.
    """
    rng = np.random.default_rng(0)
    longest = max(int(encodings.lengths.max()), 3)
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(int(np.clip(rng.lognormal(LOG_MEAN, LOG_SPREAD), 3, longest)))
    return cut_rows(encodings, lengths)


def short_text(encodings: Encodings) -> Encodings:
    """Return one row of `SHORT_TOKENS` tokens cut from real texts, or of the longest text's length if that is less."""
    return cut_rows(encodings, [min(SHORT_TOKENS, int(encodings.lengths.max()))])


def cut_rows(encodings: Encodings, lengths: list[int]) -> Encodings:
    """Return rows of the given lengths, cut from the ids of real texts in order; the ids repeat if they are too few."""
    ids: NDArray[np.int32] = np.resize(encodings.ids, sum(lengths))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    types = None if encodings.token_types is None else np.resize(encodings.token_types, len(ids))
    return Encodings(ids, offsets, np.zeros(len(lengths), np.int32), types)
