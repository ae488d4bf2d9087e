"""`measure_speeds`: measures the speed of variants in turns with the float32 variant, which is the yardstick.

Only ratios within a round count: each variant runs directly before or after the yardstick, so other load on the machine slows
both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec
import numpy as np

from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.providers.processor import TOKEN_BUDGET
from fletcher.runtime.tuning.trial import Trial, cut_rows, short_text

from .runnable_variant import RunnableVariant

__all__ = ["LONG_TOKENS", "ROUNDS", "SHORT_TOKENS", "Speed", "measure_speeds"]

#: Tokens per text of the two throughput samples: the length of a query and of a paragraph. A model with a smaller limit has
#: its limit instead of the latter.
SHORT_TOKENS, LONG_TOKENS = 16, 128

#: Rounds of a measurement.
ROUNDS = 5

#: Seconds of the yardstick's run of a sample: long enough for the clock, short enough that load seldom changes in a round.
RUN_SECONDS = 0.35


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Speed`: throughput and latency of one variant. A ratio is relative to the yardstick; above 1 is faster.

    Attributes:
        short_texts_per_s: throughput of short texts on all workers, texts per second, median of the rounds.
        long_texts_per_s: throughput of long texts.
        latency_ms: latency of one short text, milliseconds.
        short_ratio: median of the rounds' ratios of `short_texts_per_s`.
        long_ratio: the same of `long_texts_per_s`.
        latency_ratio: the yardstick's latency over this one's, median of the rounds.
        spread: difference of the largest and the smallest throughput ratio of a round, relative to the median; the larger
            value of both lengths.
        rounds: number of rounds.
    """

    short_texts_per_s: float
    long_texts_per_s: float
    latency_ms: float
    short_ratio: float
    long_ratio: float
    latency_ratio: float
    spread: float
    rounds: int

    @property
    def ratio(self) -> float:
        """Throughput ratio over both lengths: the geometric mean of the two ratios."""
        return float(np.sqrt(self.short_ratio * self.long_ratio))


def measure_speeds(runnables: Sequence[RunnableVariant], texts: Encodings, *, rounds: int = ROUNDS) -> list[Speed]:
    """Measure variants in turns; all of them are in memory at the same time.

    Args:
        runnables: the variants; the first one is the yardstick.
        texts: real texts; samples of one length are cut from their tokens.
        rounds: turns of each variant.

    Returns:
        One result per variant, in order; the yardstick's ratios are 1.

    Raises:
        InputError: there is no variant, or no round.
        FletcherError: a variant cannot be opened, or computes NaN or infinity.
    """
    if not runnables or rounds < 1:
        raise InputError(f"{len(runnables)} variants cannot be measured in {rounds} rounds: give at least one of each")
    with ExitStack() as stack:
        trials = [stack.enter_context(runnable.open()) for runnable in runnables]
        longest = min(LONG_TOKENS, runnables[0].artifact.manifest.card.max_tokens)
        samples = [_sample(trials[0], texts, length) for length in (SHORT_TOKENS, longest)]
        one = short_text(texts)
        seconds = np.empty((rounds, len(trials), 3))
        for trial in trials:  # a first run allocates memory, which is not part of a round
            for sample in samples:
                trial.seconds(sample, TOKEN_BUDGET)
        for turn in range(rounds):
            # Every second round runs in reverse order, so that no variant always runs after the same one.
            for index in range(len(trials)) if turn % 2 == 0 else reversed(range(len(trials))):
                trial = trials[index]
                seconds[turn, index] = [
                    *(trial.seconds(sample, TOKEN_BUDGET) for sample in samples),
                    trial.latency(one),
                ]
    medians = np.median(seconds, axis=0)
    ratios = seconds[:, :1] / seconds  # (rounds, variants, 3)
    middle = np.median(ratios, axis=0)
    spreads = ((ratios.max(axis=0) - ratios.min(axis=0)) / middle)[:, :2].max(axis=1)
    return [
        Speed(
            short_texts_per_s=len(samples[0]) / float(medians[index, 0]),
            long_texts_per_s=len(samples[1]) / float(medians[index, 1]),
            latency_ms=1000 * float(medians[index, 2]),
            short_ratio=float(middle[index, 0]),
            long_ratio=float(middle[index, 1]),
            latency_ratio=float(middle[index, 2]),
            spread=float(spreads[index]),
            rounds=rounds,
        )
        for index in range(len(trials))
    ]


def _sample(trial: Trial, texts: Encodings, length: int) -> Encodings:
    """Return as many rows of one length as the yardstick computes in `RUN_SECONDS`."""
    length = min(length, int(texts.lengths.max()))
    workers = trial.layout.workers
    probe = cut_rows(texts, [length] * max(workers * TOKEN_BUDGET // length, workers))
    trial.seconds(probe, TOKEN_BUDGET)
    started = time.perf_counter()
    trial.compute(probe)
    each = (time.perf_counter() - started) / len(probe)
    # Each worker gets a whole number of batches: other workers would be idle during an odd last batch.
    batches = max(round(RUN_SECONDS / each / len(probe)), 1)
    return cut_rows(texts, [length] * (batches * len(probe)))
