"""Measuring how an artefact runs here: each provider, how many workers, which batches; and settling on one.

No text is at hand when an artefact is loaded, except its canary's: real texts, by the model's own tokenizer. Ragged samples
are cut from their token ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .canary import Canary, check_vectors, comparable, read_canary
from .choices import Choice, Layout, Measurement, choose, recall, remember
from .compute import Workers
from .encodings import Encodings
from .errors import FletcherError
from .machine import Machine, this_machine
from .manifest import Variant
from .providers import AUTO, candidates, check_provider
from .session import open_session

__all__ = ["TOKEN_BUDGET", "measure", "settle"]

#: Tokens a CPU batch should hold where nothing was measured: small sorted batches stay in the caches. MiniLM on two workers,
#: throughput relative to this budget: 0.97 to 1.05 for 128 and 256 tokens, 0.87 for 1024, 0.40 for 8192
#: (benchmarks/batching, docs/benchmarks.md).
TOKEN_BUDGET = 512
OTHER_BUDGETS = (256, 1024)

#: Seconds that a load may spend on measuring, and that `fletcher-serve devices` takes if not told otherwise.
LOAD_SECONDS, DEVICES_SECONDS = 1.5, 20.0

#: Mean and spread of the logarithm of the sample's lengths: a mean of about 60 tokens with a long tail, as documentation has.
LOG_MEAN, LOG_SPREAD = 3.6, 1.0

#: Tokens of the ragged sample, and of the short text.
SAMPLE_TOKENS, SHORT_TOKENS = 4096, 12

Report = Callable[[Measurement], None]


def settle(
    artifact: Artifact,
    variant: Variant,
    *,
    provider: str = AUTO,
    workers: int | None = None,
    token_budget: int | None = None,
    min_cosine: float | None = None,
) -> Choice:
    """What to run: what the caller says, else what was measured on this machine, else what a short measurement shows.

    Args:
        artifact: the artefact.
        variant: one of its graphs.
        provider: one of `PROVIDERS`, which is then taken without a measurement, or `auto`.
        workers: batches computed at once; None leaves it open.
        token_budget: tokens that a batch should hold; None leaves it open.
        min_cosine: how far from the reference `auto` may go; None is the variant's own tolerance.

    Raises:
        InputError: there is no such provider.
        ProviderError: nothing can run it.
    """
    check_provider(provider)
    machine = this_machine()
    default = Layout(provider, workers or len(machine.processors), 1, token_budget or TOKEN_BUDGET)
    if provider != AUTO:
        return Choice(default, f"{provider} was asked for")
    wanted = variant.tolerance.min_cosine if min_cosine is None else min_cosine
    known = recall(machine.key, artifact.digest, variant.name)
    if known is None:
        known = measure(artifact, variant, seconds=LOAD_SECONDS)
        remember(machine.key, artifact.digest, variant.name, known)
    choice = choose(known, min_cosine=wanted)
    layout = Layout(
        choice.layout.provider,
        workers or choice.layout.workers,
        1 if workers else choice.layout.threads,
        token_budget or choice.layout.token_budget,
    )
    return Choice(layout, choice.reason)


def measure(artifact: Artifact, variant: Variant, *, seconds: float, report: Report | None = None) -> list[Measurement]:
    """Measures each provider that can be used, one session in memory at a time.

    For each, as time allows: its canary, one worker a processor against one wide run, smaller and larger batches.

    Args:
        artifact: the artefact.
        variant: one of its graphs.
        seconds: for all of it; what was begun is finished.
        report: is told each result.

    Returns:
        Measurements in the order of preference: the first one with a speed is the default.
    """
    machine = this_machine()
    canary = read_canary(artifact.canary_file)
    sample = ragged_sample(canary.encodings)
    usable = candidates(variant, machine)
    found: list[Measurement] = []
    deadline = time.monotonic() + seconds
    ready = [provider.name for provider, problem in usable if problem is None]
    for provider, problem in usable:
        if problem is not None:
            layout = Layout(provider.name, len(machine.processors), 1, TOKEN_BUDGET)
            found.append(_told(Measurement(layout=layout, problem=problem), report))
            continue
        # What time is left is shared among the providers that are still to come.
        left = ready[ready.index(provider.name) :]
        share = max(deadline - time.monotonic(), 0) / len(left)
        found += _measure_provider(artifact, variant, provider.name, machine, canary, sample, share, report)
    return found


def _measure_provider(
    artifact: Artifact,
    variant: Variant,
    provider: str,
    machine: Machine,
    canary: Canary,
    sample: Encodings,
    seconds: float,
    report: Report | None,
) -> list[Measurement]:
    ends = time.monotonic() + seconds
    count = len(machine.processors)
    found: list[Measurement] = []
    layouts = [Layout(provider, count, 1, TOKEN_BUDGET)]
    if count > 1:
        layouts.append(Layout(provider, 1, count, TOKEN_BUDGET))
    for layout in layouts:
        if found and time.monotonic() > ends:
            break
        budgets = [TOKEN_BUDGET, *OTHER_BUDGETS] if layout.threads == 1 else [TOKEN_BUDGET]
        found += _measure_layout(artifact, variant, layout, budgets, canary, sample, ends, report)
        if found[-1].problem is not None:
            break
    return found


def _measure_layout(
    artifact: Artifact,
    variant: Variant,
    layout: Layout,
    budgets: Iterable[int],
    canary: Canary,
    sample: Encodings,
    ends: float,
    report: Report | None,
) -> list[Measurement]:
    """One session, with batches of several sizes."""
    found = []
    try:
        session = open_session(
            artifact, variant, provider=layout.provider, threads=layout.threads, workers=layout.workers
        )
        workers = Workers(
            session, variant.outputs, name=variant.name, count=layout.workers, token_budget=layout.token_budget
        )
        try:
            accuracy = check_vectors(
                *comparable(artifact.manifest.card.output, workers.compute(canary.encodings), canary.vectors),
                min_cosine=variant.tolerance.min_cosine,
                max_abs=variant.tolerance.max_abs,
            )
            short = sample.select(np.array([int(np.argmin(np.abs(sample.lengths - SHORT_TOKENS)))]))
            latency = float(np.median([_seconds(lambda: workers.compute(short)) for _ in range(7)]))
            for budget in budgets:
                if found and time.monotonic() > ends:
                    break
                workers.token_budget = budget
                speed = _throughput(workers, sample, ends)
                found.append(
                    _told(
                        Measurement(
                            layout=Layout(layout.provider, layout.workers, layout.threads, budget),
                            latency_ms=round(1000 * latency, 3),
                            tokens_per_s=round(speed * sample.num_tokens, 1),
                            texts_per_s=round(speed * len(sample), 1),
                            min_cosine=accuracy.min_cosine,
                            max_abs=accuracy.max_abs,
                        ),
                        report,
                    )
                )
        finally:
            workers.close()
    except FletcherError as error:
        found.append(_told(Measurement(layout=layout, problem=str(error)), report))
    return found


def _throughput(workers: Workers, sample: Encodings, ends: float) -> float:
    """Samples a second: the best of a few rounds, since what disturbs only slows."""
    best = _seconds(lambda: workers.compute(sample))
    for _ in range(2):
        if time.monotonic() + best > ends:
            break
        best = min(best, _seconds(lambda: workers.compute(sample)))
    return 1 / best


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _told(measurement: Measurement, report: Report | None) -> Measurement:
    if report is not None:
        report(measurement)
    return measurement


def ragged_sample(encodings: Encodings) -> Encodings:
    """Rows of token ids with the lengths of documentation, cut from real texts.

    Args:
        encodings: real texts, at least one token in all.

    Returns:
        Rows of `SAMPLE_TOKENS` tokens together or a little more, none longer than the longest real text.
    """
    rng = np.random.default_rng(0)
    longest = int(encodings.lengths.max())
    lengths: list[int] = []
    while sum(lengths) < SAMPLE_TOKENS:
        lengths.append(int(np.clip(rng.lognormal(LOG_MEAN, LOG_SPREAD), 3, max(longest, 3))))
    ids: NDArray[np.int32] = np.resize(encodings.ids, sum(lengths))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    types = None if encodings.token_types is None else np.resize(encodings.token_types, len(ids))
    return Encodings(ids, offsets, np.zeros(len(lengths), np.int32), types)


def problems_of(measurements: Sequence[Measurement]) -> list[str]:
    """What could not be used, and why, each once."""
    told = [f"{found.layout.provider}: {found.problem}" for found in measurements if found.problem is not None]
    return list(dict.fromkeys(told))
