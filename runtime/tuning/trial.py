"""`Trial`: one layout of an artifact while it is measured, and the texts that it is timed with."""

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

#: Mean and spread of the logarithm of the sample's lengths: a mean of about 60 tokens with a long tail, as documentation has.
LOG_MEAN, LOG_SPREAD = 3.6, 1.0

#: Tokens of the text whose latency is measured; how often it is run, and how often if that takes less than so many seconds.
SHORT_TOKENS, FEWEST_RUNS, MOST_RUNS, RUNS_SECONDS = 12, 5, 40, 0.1

#: Of the runs' seconds: what three in four of them exceed. A machine that does something else in most of the runs moves their
#: median, and hardly this.
QUARTILE = 0.25


class Trial(Closing):
    """Session and threads, as an encoder would have them. A context manager that closes them."""

    def __init__(self, artifact: Artifact, variant: Variant, layout: WorkerLayout, machine: Machine) -> None:
        """Open a session and start its threads.

        Args:
            artifact: the artifact.
            variant: one of its graphs.
            layout: how to run it.
            machine: where the threads are pinned, if it has several nodes.

        Raises:
            FletcherError: as `open_session`.
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
        """Return the seconds of one text, the lower quartile of some runs; the first run makes buffers and does not count."""
        return latencies([self], text)[0]

    def accuracy(self, canary: Canary) -> CanaryResult:
        """Compare the canary's vectors with their reference."""
        vectors = self._workers.compute(canary.encodings)
        return canary.judge(vectors, self._artifact.manifest.card.output, self._tolerance)

    def compute(self, texts: Encodings) -> NDArray[np.float32]:
        """Return the vectors of any number of texts on all workers, (n, dimension)."""
        return self._workers.compute(texts)

    def run(self, batch: Encodings) -> NDArray[np.float32]:
        """Return the vectors of texts that are one batch, whatever their lengths, on the calling thread, (n, dimension)."""
        return self._session.run(batch)

    def seconds(self, texts: Encodings, token_budget: int) -> float:
        """Return the seconds that all workers together need for some texts."""
        self._workers.token_budget = token_budget
        started = time.perf_counter()
        self._workers.compute(texts)
        return time.perf_counter() - started

    def close(self) -> None:
        """Release the memory."""
        self._workers.close()


def latencies(trials: Sequence[Trial], text: Encodings) -> list[float]:
    """Return the seconds of one text on each trial, in turns; see `Trial.latency`."""
    for trial in trials:
        trial.compute(text)
    started = time.perf_counter()
    taken: list[list[float]] = []
    while len(taken) < FEWEST_RUNS or (len(taken) < MOST_RUNS and time.perf_counter() - started < RUNS_SECONDS):
        taken.append([trial.seconds(text, trial.layout.token_budget) for trial in trials])
    return [float(seconds) for seconds in np.quantile(taken, QUARTILE, axis=0)]


def ragged_sample(encodings: Encodings, tokens: int) -> Encodings:
    """Return rows of token ids with the lengths of documentation, cut from real texts.

    Args:
        encodings: real texts, at least one token in all.
        tokens: how many there shall be at least.

    Returns:
        Rows of `tokens` tokens together or a little more, none longer than the longest real text; the same at each call.
    """
    rng = np.random.default_rng(0)
    longest = max(int(encodings.lengths.max()), 3)
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(int(np.clip(rng.lognormal(LOG_MEAN, LOG_SPREAD), 3, longest)))
    return cut_rows(encodings, lengths)


def short_text(encodings: Encodings) -> Encodings:
    """Return one row of `SHORT_TOKENS` tokens cut from real texts, or of as many as the longest of them has."""
    return cut_rows(encodings, [min(SHORT_TOKENS, int(encodings.lengths.max()))])


def cut_rows(encodings: Encodings, lengths: list[int]) -> Encodings:
    """Return rows of the given lengths, cut from the ids of real texts in turn, again from the front if they run out."""
    ids: NDArray[np.int32] = np.resize(encodings.ids, sum(lengths))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    types = None if encodings.token_types is None else np.resize(encodings.token_types, len(ids))
    return Encodings(ids, offsets, np.zeros(len(lengths), np.int32), types)
