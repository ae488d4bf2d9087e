"""What an artifact does on this machine, beside the one that it was made from: vectors, speed, size, memory.

Only ratios within a round count: each subject runs right after or before the yardstick, so that a second in which the machine
is busy with something else slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.processor import TOKEN_BUDGET
from fletcher.runtime.providers.worker_layout import WorkerLayout
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.runtime.tuning.trial import Trial, cut_rows, short_text

from .metrics import compare, cosines
from .pairs import agreement
from .texts import SweepTexts

__all__ = [
    "LONG_TOKENS",
    "ROUNDS",
    "SHORT_TOKENS",
    "Quality",
    "Speed",
    "Subject",
    "batch_dependence",
    "file_bytes",
    "judge",
    "measure_speeds",
    "vectors_of",
]

#: Tokens of each text of the two throughputs: a query's, and a paragraph's (or the model's most, where that is less).
SHORT_TOKENS, LONG_TOKENS = 16, 128

#: Turns of each subject.
ROUNDS = 5

#: Seconds that the yardstick's run of a sample shall take: long enough for a clock, and a round is still one moment.
RUN_SECONDS = 0.35

#: Texts that are run alone and within a batch, and the batches' size.
ALONE, BATCH = 32, 32

#: Tokens that a text of the batches has at most: what depends on batch mates does so at any length.
ALONE_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        artifact: a folder.
        variant: a graph of it.
        provider: what runs it.
    """

    artifact: Artifact
    variant: Variant
    provider: str

    def open(self) -> Trial:
        """A session with a worker a processor, as an encoder has them by default.

        Raises:
            FletcherError: as `open_session`.
        """
        machine = this_machine()
        layout = WorkerLayout(self.provider, len(machine.processors), 1, TOKEN_BUDGET)
        return Trial(self.artifact, self.variant, layout, machine)


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How near vectors are to the reference's.

    Attributes:
        cosine_mean: over the texts, of a text's vector with its reference.
        cosine_p1: first percentile.
        cosine_min: smallest.
        overlap: share of each text's ten nearest others that are the reference's, mean.
        spearman: rank correlation of all pairwise similarities with the reference's.
        pairs: rank correlation of the similarities of judged pairs with the judgment, if there are any.
        batch_max_abs: worst difference of an element between a text alone and within a batch.
        batch_cosine: worst cosine between the two.
        cosines: each text's.
    """

    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    overlap: float
    spearman: float
    pairs: float | None
    batch_max_abs: float
    batch_cosine: float
    cosines: tuple[float, ...]


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How fast a subject was; ratios are to the yardstick, above 1 is faster.

    Attributes:
        short_texts_per_s: of short texts, all workers together, median of the rounds.
        long_texts_per_s: of long ones.
        latency_ms: of one short text, milliseconds.
        short_ratio: median of the rounds' ratios.
        long_ratio: the same.
        latency_ratio: the same; above 1 answers sooner.
        spread: how far the rounds' throughput ratios lie apart, relative to their median, the larger of both lengths.
        rounds: how many.
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
        """Throughput over both lengths: the geometric mean of the two ratios."""
        return float(np.sqrt(self.short_ratio * self.long_ratio))


def file_bytes(subject: Subject) -> int:
    """Of the graph and its weights."""
    files = subject.artifact.manifest.files
    return sum(files[name].size for name in {subject.variant.file, subject.variant.weights})


def vectors_of(subject: Subject, texts: Encodings) -> NDArray[np.float32]:
    """float32, (n, dimension)."""
    with subject.open() as trial:
        return trial.compute(texts)


def judge(subject: Subject, texts: SweepTexts, reference: NDArray[np.float32]) -> Quality:
    """Compares a subject's vectors with the reference's.

    Args:
        subject: what is judged.
        texts: the judged texts' and pairs' vectors are computed.
        reference: of the judged texts, float32, (n, dimension).

    Raises:
        FletcherError: it cannot be opened or computes no numbers.
    """
    pairs = texts.pairs
    with subject.open() as trial:
        found = compare(trial.compute(texts.judged_ids), reference)
        correlation = None
        if pairs is not None:
            card = subject.artifact.manifest.card
            tokenizer = Tokenizer(subject.artifact.tokenizer_file, card.max_tokens)
            first, second = (trial.compute(tokenizer.encode(list(side))) for side in (pairs.first, pairs.second))
            correlation = agreement(pairs, first, second)
        batch_max_abs, batch_cosine = batch_dependence(trial.run, texts.judged_ids)
    return Quality(
        cosine_mean=found.cosine_mean,
        cosine_p1=found.cosine_p1,
        cosine_min=found.cosine_min,
        overlap=found.neighbors,
        spearman=found.spearman,
        pairs=correlation,
        batch_max_abs=batch_max_abs,
        batch_cosine=batch_cosine,
        cosines=tuple(found.cosines.tolist()),
    )


def batch_dependence(run: Callable[[Encodings], NDArray[np.float32]], texts: Encodings) -> tuple[float, float]:
    """How much a text's vector depends on the texts beside it: each of some texts alone, and in a batch of others.

    Args:
        run: computes one batch.
        texts: of mixed lengths; those of at most `ALONE_TOKENS` tokens are taken, or the shortest.

    Returns:
        The largest absolute difference of an element, and the smallest cosine.
    """
    order = np.argsort(texts.lengths, kind="stable")
    few = order[: max(int((texts.lengths <= ALONE_TOKENS).sum()), min(BATCH, len(order)))]
    rows = few[np.random.default_rng(0).permutation(len(few))[:ALONE]]
    alone = np.concatenate([run(texts.select(rows[index : index + 1])) for index in range(len(rows))])
    together = np.concatenate([run(texts.select(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)])
    angles = cosines(alone.astype(np.float64), together.astype(np.float64))
    return float(np.abs(alone - together).max()), float(angles.min())


def measure_speeds(subjects: Sequence[Subject], texts: Encodings, *, rounds: int = ROUNDS) -> list[Speed]:
    """Lets subjects take turns; all are in memory at once.

    Args:
        subjects: the first one is the yardstick.
        texts: real ones; samples of one length are cut from their tokens.
        rounds: turns of each.

    Returns:
        A result each, in order; the yardstick's ratios are 1.

    Raises:
        InputError: no subject, or no round.
        FletcherError: a subject cannot be opened or computes no numbers.
    """
    if not subjects or rounds < 1:
        raise InputError(f"{len(subjects)} subjects in {rounds} rounds: give at least one of each")
    with ExitStack() as stack:
        trials = [stack.enter_context(subject.open()) for subject in subjects]
        longest = min(LONG_TOKENS, subjects[0].artifact.manifest.card.max_tokens)
        samples = [_sample(trials[0], texts, length) for length in (SHORT_TOKENS, longest)]
        one = short_text(texts)
        seconds = np.empty((rounds, len(trials), 3))
        for trial in trials:  # what a first run allocates is not the round's
            for sample in samples:
                trial.seconds(sample, TOKEN_BUDGET)
        for turn in range(rounds):
            # Every second round goes backwards, so that nobody always runs behind the same one.
            for place in range(len(trials)) if turn % 2 == 0 else reversed(range(len(trials))):
                trial = trials[place]
                seconds[turn, place] = [
                    *(trial.seconds(sample, TOKEN_BUDGET) for sample in samples),
                    trial.latency(one),
                ]
    medians = np.median(seconds, axis=0)
    ratios = seconds[:, :1] / seconds  # (rounds, subjects, 3)
    middle = np.median(ratios, axis=0)
    spreads = ((ratios.max(axis=0) - ratios.min(axis=0)) / middle)[:, :2].max(axis=1)
    return [
        Speed(
            short_texts_per_s=len(samples[0]) / float(medians[place, 0]),
            long_texts_per_s=len(samples[1]) / float(medians[place, 1]),
            latency_ms=1000 * float(medians[place, 2]),
            short_ratio=float(middle[place, 0]),
            long_ratio=float(middle[place, 1]),
            latency_ratio=float(middle[place, 2]),
            spread=float(spreads[place]),
            rounds=rounds,
        )
        for place in range(len(trials))
    ]


def _sample(trial: Trial, texts: Encodings, length: int) -> Encodings:
    """As many rows of one length as the yardstick computes in `RUN_SECONDS`."""
    length = min(length, int(texts.lengths.max()))
    workers = trial.layout.workers
    probe = cut_rows(texts, [length] * max(workers * TOKEN_BUDGET // length, workers))
    trial.seconds(probe, TOKEN_BUDGET)
    started = time.perf_counter()
    trial.compute(probe)
    each = (time.perf_counter() - started) / len(probe)
    # A whole number of batches for each worker: a last one that only one of them computes would be idle time.
    batches = max(round(RUN_SECONDS / each / len(probe)), 1)
    return cut_rows(texts, [length] * (batches * len(probe)))
