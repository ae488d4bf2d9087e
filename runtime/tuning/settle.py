"""Measuring an artifact on this machine, on each provider with several layouts, and settling on one layout.

No text is at hand when an artifact is loaded, except its canary's: real texts, by the model's own tokenizer. Ragged samples
are cut from their token ids.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import msgspec

from fletcher.model_zoo.card import Accuracy

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..errors import ProviderError
from ..machine.machine import this_machine
from ..memory.budget import resident
from ..providers.needs import too_old
from ..providers.selection import AUTO, candidates, check_provider, find_provider
from ..providers.worker_layout import WorkerLayout
from .bench import COPIES, LayoutBench, Report
from .choice import Choice, choose
from .history import measuring_key, recall, remember
from .measurement import Measurement, accuracy_of, within

__all__ = ["DEVICES_SECONDS", "LOAD_SECONDS", "measure", "settle"]

logger = logging.getLogger("fletcher.runtime.tuning.settle")

#: Seconds that a load may spend on measuring, and that `fletcher-serve devices` takes by default.
LOAD_SECONDS, DEVICES_SECONDS = 2.5, 20.0

#: Bytes beside those that measuring may take: other providers' libraries, and the kernels and buffers of their batches. A
#: load of all-MiniLM-L6-v2 that measured had 555 MB at its peak, of which this share is less than 150.
MEASURING_BYTES = 256 << 20


def settle(
    artifact: Artifact,
    variant: Variant,
    *,
    provider: str = AUTO,
    workers: int | None = None,
    token_budget: int | None = None,
    min_cosine: float | None = None,
    memory_limit: int | None = None,
    seconds: float = LOAD_SECONDS,
) -> Choice:
    """Return the layout to run: the caller's, else the best that was measured on this machine, now or earlier.

    Args:
        artifact: the artifact.
        variant: one of its graphs.
        provider: one of `PROVIDERS`, which is then taken without a measurement, or `auto`.
        workers: batches computed at once; None leaves it open.
        token_budget: tokens that a batch should hold; None leaves it open.
        min_cosine: how far from the reference `auto` may go; None is the variant's own tolerance.
        memory_limit: bytes that the process may have resident; what is not remembered is not measured where that could take
            more. None is no limit.
        seconds: for a measurement, where nothing is remembered. A model that is too large to be measured in that time is
            run in the default way; opening its session and one short text are then what the attempt cost.

    Raises:
        InputError: there is no such provider.
        ProviderError: nothing can run it.
    """
    check_provider(provider)
    if provider == AUTO and memory_limit is not None and _is_too_much(artifact, variant, memory_limit):
        first = next((able.name for able, problem in candidates(variant, this_machine()) if problem is None), None)
        if first is not None:
            unmeasured = settle(artifact, variant, provider=first, workers=workers, token_budget=token_budget)
            why = "measuring may take more than the memory limit: fletcher-serve devices DIR"
            return Choice(unmeasured.layout, f"{first} is the default; {why}")
    machine = this_machine()
    usable = candidates(variant, machine)
    if not usable:
        raise ProviderError(
            f"the variant {variant.name} is for the target {variant.target}, which no provider here runs: "
            "load a cpu variant"
        )
    preferred = next((candidate for candidate, problem in usable if problem is None), usable[0][0])
    chosen = preferred if provider == AUTO else find_provider(provider)
    default = chosen.default_layout(machine)
    default = WorkerLayout(provider, workers or default.workers, 1, token_budget or default.token_budget)
    if provider != AUTO:
        return Choice(default, f"{provider} was asked for")
    for candidate, problem in usable:
        if problem is not None:
            level = logging.WARNING if too_old(candidate) else logging.INFO
            logger.log(level, "provider skipped", extra={"fields": {"provider": candidate.name, "reason": problem}})
    measurements = recall(measuring_key(), artifact.digest, variant.name)
    if measurements is None and not preferred.tuning.at_load:
        layout = msgspec.structs.replace(default, provider=preferred.name)
        return Choice(layout, f"{layout.provider} runs this variant; fletcher-serve devices DIR measures its batches")
    if measurements is None:
        measurements = measure(artifact, variant, seconds=seconds)
        remember(measuring_key(), artifact.digest, variant.name, measurements)
    for name, reason in _faults(measurements, variant).items():
        logger.warning("provider skipped", extra={"fields": {"provider": name, "reason": reason}})
    tolerance = variant.tolerance if min_cosine is None else Accuracy(min_cosine=min_cosine)
    first = next((provider.name for provider, problem in usable if problem is None), None)
    if first is not None and not any(
        measurement.failed
        or (measurement.tokens_per_s and within(measurement, tolerance.min_cosine, tolerance.max_abs))
        for measurement in measurements
    ):
        layout = WorkerLayout(first, default.workers, 1, default.token_budget)
        if any(
            measurement.tokens_per_s for measurement in measurements
        ):  # the load's own canary check says what is wrong
            return Choice(layout, f"{first} is the default; nothing here is as exact as it was asked for")
        return Choice(
            layout, f"{first} is the default; measuring takes longer than a load may: fletcher-serve devices DIR"
        )
    # So many workers have one thread each: what several threads of one would gain says nothing of them.
    comparable = [measurement for measurement in measurements if workers is None or measurement.layout.threads == 1]
    choice = choose(comparable, min_cosine=tolerance.min_cosine, max_abs=tolerance.max_abs)
    layout = WorkerLayout(
        choice.layout.provider,
        workers or choice.layout.workers,
        1 if workers else choice.layout.threads,
        token_budget or choice.layout.token_budget,
    )
    return Choice(layout, choice.reason, None if workers else choice.alone)


def _is_too_much(artifact: Artifact, variant: Variant, memory_limit: int) -> bool:
    """Return whether a load would have to measure, and that may take more than the limit."""
    if recall(measuring_key(), artifact.digest, variant.name) is not None:
        return False
    weights = artifact.manifest.files[variant.weights].size
    return resident() + COPIES * weights + MEASURING_BYTES > memory_limit


def _faults(measurements: Sequence[Measurement], variant: Variant) -> dict[str, str]:
    """Return the fault of each provider that has one: it did not run, or is less exact than its arithmetic is.

    A package that is not installed, or arithmetic whose loss is expected, is not a fault.
    """
    faults = {}
    tolerance = variant.tolerance
    for measurement in measurements:
        name = measurement.layout.provider
        exact = find_provider(name).precision in (None, variant.precision)
        if measurement.failed:
            faults[name] = str(measurement.problem)
        elif exact and not within(measurement, tolerance.min_cosine, tolerance.max_abs):
            faults[name] = f"its canary is off: {accuracy_of(measurement)}"
    return faults


def measure(
    artifact: Artifact,
    variant: Variant,
    *,
    seconds: float,
    providers: Sequence[str] | None = None,
    report: Report | None = None,
) -> list[Measurement]:
    """Measure what can run here: every provider first, then other layouts of each, then other batches for the best one.

    Two sessions are in memory at once at most, the yardstick's and another; one where two might not fit.

    Args:
        artifact: the artifact.
        variant: one of its graphs.
        seconds: for all of it; a run that was begun is finished. What there was no time for is not in the result, but for
            providers: those are, as a problem.
        providers: which; None is all that run the variant.
        report: called with each result.

    Returns:
        Measurements in the order of preference: the first one with a speed is the default. What fails is a measurement
        with a problem, never an exception.

    Raises:
        InputError: there is no such provider.
        ArtifactError: the canary cannot be read.
    """
    for name in providers or ():
        check_provider(name)
    machine = this_machine()
    usable = [
        (provider, problem)
        for provider, problem in candidates(variant, machine)
        if providers is None or provider.name in providers
    ]
    with LayoutBench(artifact, variant, machine, seconds, report) as bench:
        layouts = {provider.name: provider.layouts(machine) for provider, _ in usable}
        for provider, problem in usable:
            if problem is not None:
                bench.record(Measurement(layout=layouts[provider.name][0], problem=problem))
        ready = [provider.name for provider, problem in usable if problem is None]
        for index, name in enumerate(ready):
            sharers = len(ready) - index + len(layouts[name][1:2])
            bench.try_layout(layouts[name][0], sharers=sharers)
        ready = [name for name in ready if bench.best(name) is not None]
        rest = [
            layout
            for row in itertools.zip_longest(*(layouts[name][1:] for name in ready))
            for layout in row
            if layout is not None
        ]
        # What a batch that runs alone may take, of the provider that leads: a load has time for this one.
        first = [layouts[name][-1] for name in bench.by_promise(ready)[:1]]
        rest.sort(key=lambda layout: layout not in first)
        for index, layout in enumerate(rest):
            bench.try_layout(layout, sharers=len(rest) - index)
        for name in bench.by_promise(ready):
            bench.try_budgets(name)
        return bench.measurements
