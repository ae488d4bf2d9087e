"""`measure_speeds`, `open_meter`: measure the speed of variants in turns with the float32 variant, which is the yardstick.

Only ratios within a round count: each variant runs directly before or after the yardstick, so other load on the machine slows
both. The ratios still differ from round to round, so every figure has a `Spread`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import msgspec
import numpy as np

from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.providers.processor import TOKEN_BUDGET
from fletcher.runtime.tuning.trial import Trial, cut_rows, short_text

from .runnable_variant import RunnableVariant
from .spread import Spread

__all__ = ["LONG_TOKENS", "ROUNDS", "SHORT_TOKENS", "Speed", "SpeedMeter", "join", "measure_speeds", "open_meter"]

#: Tokens per text of the two throughput samples: the length of a query and of a paragraph. A model with a smaller limit has
#: its limit instead of the latter.
SHORT_TOKENS, LONG_TOKENS = 16, 128

#: Rounds of a measurement; the fewest whose range has the probability `CONFIDENCE`.
ROUNDS = 5

#: Seconds of the yardstick's run of a sample: long enough for the clock, short enough that load seldom changes in a round.
RUN_SECONDS = 0.35


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Speed`: throughput and latency of one variant. A ratio is relative to the yardstick in a round; above 1 is faster.

    Attributes:
        short_texts_per_s: throughput of short texts on all workers, texts per second.
        long_texts_per_s: throughput of long texts.
        latency_ms: latency of one text, milliseconds.
        short_ratio: ratio of `short_texts_per_s`.
        long_ratio: ratio of `long_texts_per_s`.
        throughput_ratio: ratio over both lengths: the geometric mean of a round's `short_ratio` and `long_ratio`.
        latency_ratio: the yardstick's latency over this one's.
        short_tokens: tokens of a short text.
        long_tokens: tokens of a long text.
        latency_tokens: tokens of the text whose latency is measured.
    """

    short_texts_per_s: Spread
    long_texts_per_s: Spread
    latency_ms: Spread
    short_ratio: Spread
    long_ratio: Spread
    throughput_ratio: Spread
    latency_ratio: Spread
    short_tokens: int
    long_tokens: int
    latency_tokens: int

    @property
    def num_rounds(self) -> int:
        """Number of rounds."""
        return len(self.throughput_ratio.rounds)


#: Fields of `Speed` that are spreads.
SPREADS: Final = (
    "short_texts_per_s",
    "long_texts_per_s",
    "latency_ms",
    "short_ratio",
    "long_ratio",
    "throughput_ratio",
    "latency_ratio",
)


def join(before: Speed, after: Speed) -> Speed:
    """Return the speed over the rounds of two measurements of one variant."""
    return msgspec.structs.replace(
        before,
        **{name: Spread.of([*getattr(before, name).rounds, *getattr(after, name).rounds]) for name in SPREADS},
    )


class SpeedMeter:
    """`SpeedMeter`: open variants, which run in turns, and the seconds that they took. The first one is the yardstick."""

    def __init__(self, trials: Sequence[Trial], samples: Sequence[Encodings], one: Encodings) -> None:
        """Keep the trials and their texts.

        Args:
            trials: open trials, the yardstick's first.
            samples: short texts and long texts.
            one: text whose latency is measured.
        """
        self._trials = trials
        self._samples = samples
        self._one = one
        self._num_turns = 0
        # Seconds of short texts, long texts and one text, of each variant and of the yardstick in the same round.
        self._rounds: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in trials]

    def turn(self, indices: Sequence[int] | None = None) -> None:
        """Run one round.

        Args:
            indices: variants that run besides the yardstick; None runs all.
        """
        chosen = sorted({0, *(range(len(self._trials)) if indices is None else indices)})
        # Every second round runs in reverse order, so that no variant always runs after the same one.
        order = chosen if self._num_turns % 2 == 0 else chosen[::-1]
        self._num_turns += 1
        seconds = {index: self._seconds(self._trials[index]) for index in order}
        for index in chosen:
            self._rounds[index].append((seconds[index], seconds[0]))

    def _seconds(self, trial: Trial) -> np.ndarray:
        return np.array(
            [*(trial.seconds(sample, TOKEN_BUDGET) for sample in self._samples), trial.latency(self._one)], np.float64
        )

    def speed(self, index: int) -> Speed:
        """Return the speed of a variant that ran in at least one round."""
        own, yardstick = (np.array(seconds) for seconds in zip(*self._rounds[index], strict=True))  # (rounds, 3)
        rates, ratios = 1 / own, yardstick / own
        short, long = self._samples
        return Speed(
            short_texts_per_s=Spread.of(rates[:, 0] * len(short)),
            long_texts_per_s=Spread.of(rates[:, 1] * len(long)),
            latency_ms=Spread.of(1000 * own[:, 2]),
            short_ratio=Spread.of(ratios[:, 0]),
            long_ratio=Spread.of(ratios[:, 1]),
            throughput_ratio=Spread.of(np.sqrt(ratios[:, 0] * ratios[:, 1])),
            latency_ratio=Spread.of(ratios[:, 2]),
            short_tokens=int(short.lengths[0]),
            long_tokens=int(long.lengths[0]),
            latency_tokens=int(self._one.lengths[0]),
        )


@contextmanager
def open_meter(runnables: Sequence[RunnableVariant], texts: Encodings) -> Iterator[SpeedMeter]:
    """Open variants, all of them in memory at the same time, and run each once, because a first run allocates memory.

    Args:
        runnables: the variants; the first one is the yardstick.
        texts: real texts; samples of one length are cut from their tokens.

    Raises:
        FletcherError: a variant cannot be opened, or computes NaN or infinity.
    """
    with ExitStack() as stack:
        trials = [stack.enter_context(runnable.open()) for runnable in runnables]
        longest = min(LONG_TOKENS, runnables[0].artifact.manifest.card.max_tokens)
        samples = [_sample(trials[0], texts, length) for length in (SHORT_TOKENS, longest)]
        for trial in trials:
            for sample in samples:
                trial.seconds(sample, TOKEN_BUDGET)
        yield SpeedMeter(trials, samples, short_text(texts))


def measure_speeds(runnables: Sequence[RunnableVariant], texts: Encodings, *, rounds: int = ROUNDS) -> list[Speed]:
    """Measure variants in turns; see `open_meter`.

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
    with open_meter(runnables, texts) as meter:
        for _ in range(rounds):
            meter.turn()
        return [meter.speed(index) for index in range(len(runnables))]


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
