"""Measurement of an artifact on this machine, on each provider with several layouts, and the choice of one layout.

The measured texts are cut from the token ids of the artifact's canary. These come from real texts and the tokenizer of the
model, and a load has no other texts.
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
from .completion import count_tries, join, unmeasured
from .history import measuring_key, recall, remember
from .measurement import Measurement, accuracy_of, within

__all__ = ["DEVICES_SECONDS", "LOAD_SECONDS", "measure", "settle"]

logger = logging.getLogger("fletcher.runtime.tuning.settle")

#: Seconds that a load may measure, and default of `fletcher-serve devices`.
LOAD_SECONDS, DEVICES_SECONDS = 2.5, 20.0

#: Bytes that a measurement may need in addition to the weights: libraries of other providers, and kernels and buffers of
#: their batches. A load of all-MiniLM-L6-v2 with a measurement needed at most 555 MB, of which this part is less than 150
#: MB.
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
    """Return the layout to run: the one that the caller requests, or the best one of a new or stored measurement.

    Args:
        artifact: artifact to load.
        variant: variant of the artifact.
        provider: name of a provider, which is used without a measurement, or `auto`.
        workers: number of batches computed at the same time; None takes the best.
        token_budget: tokens that a batch should hold; None takes the best.
        min_cosine: smallest cosine with the reference that `auto` accepts; None uses the tolerance of the variant.
        memory_limit: bytes that may be resident in the process. If a measurement could exceed the limit and none is stored,
            the default layout is used. None is unlimited.
        seconds: seconds for a measurement if none is stored, or if a stored one lacks a provider. A model that is too large
            for this time runs with the default layout; the attempt then costs the opening of a session and one short text.

    Raises:
        OptionError: there is no such provider.
        ProviderError: no provider can run the variant.
    """
    check_provider(provider)
    if provider == AUTO and memory_limit is not None and _is_too_much(artifact, variant, memory_limit):
        first = next((one.name for one, problem in candidates(variant, this_machine()) if problem is None), None)
        if first is not None:
            without = settle(artifact, variant, provider=first, workers=workers, token_budget=token_budget)
            why = "a measurement may exceed the memory limit: measure with fletcher-serve devices DIR"
            return Choice(without.layout, f"{first} is the default; {why}")
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
        return Choice(default, f"{provider} was requested")
    for candidate, problem in usable:
        if problem is not None:
            level = logging.WARNING if too_old(candidate) else logging.INFO
            logger.log(level, "provider skipped", extra={"fields": {"provider": candidate.name, "reason": problem}})
    measurements = recall(measuring_key(), artifact.digest, variant.name)
    if measurements is None and not preferred.tuning.at_load:
        layout = msgspec.structs.replace(default, provider=preferred.name)
        return Choice(layout, f"{layout.provider} runs this variant; fletcher-serve devices DIR measures batch sizes")
    if measurements is None:
        measurements = count_tries(measure(artifact, variant, seconds=seconds))
        remember(measuring_key(), artifact.digest, variant.name, measurements)
    elif left := unmeasured(measurements):
        first_measured = next(one.layout.provider for one in measurements if one.tokens_per_s)
        later = measure(artifact, variant, seconds=seconds, providers=[first_measured, *left])
        measurements = join(measurements, later)
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
        # If a layout is too inexact, the canary check of the load reports the error.
        if any(measurement.tokens_per_s for measurement in measurements):
            return Choice(layout, f"{first} is the default; no provider here is as exact as requested")
        return Choice(
            layout,
            f"{first} is the default; a measurement takes longer than a load may: measure with fletcher-serve devices DIR",
        )
    # With a requested number of workers each worker has one thread, so layouts with more threads are not comparable.
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
    """Return whether a load has no stored measurement, and a new one may exceed the memory limit."""
    if recall(measuring_key(), artifact.digest, variant.name) is not None:
        return False
    weights = artifact.manifest.files[variant.weights].size
    return resident() + COPIES * weights + MEASURING_BYTES > memory_limit


def _faults(measurements: Sequence[Measurement], variant: Variant) -> dict[str, str]:
    """Return the faults by provider: the provider failed to run, or its results are outside the variant's tolerance.

    A missing package is not a fault. Neither is the error of a provider that computes in a lower precision than the variant.
    """
    faults = {}
    tolerance = variant.tolerance
    for measurement in measurements:
        name = measurement.layout.provider
        exact = find_provider(name).precision in (None, variant.precision)
        if measurement.failed:
            faults[name] = str(measurement.problem)
        elif exact and not within(measurement, tolerance.min_cosine, tolerance.max_abs):
            faults[name] = f"its canary is outside the tolerance: {accuracy_of(measurement)}"
    return faults


def measure(
    artifact: Artifact,
    variant: Variant,
    *,
    seconds: float,
    providers: Sequence[str] | None = None,
    report: Report | None = None,
) -> list[Measurement]:
    """Measure the usable providers: first each provider, then other layouts of each, then other token budgets of the best.

    At most two sessions are open at the same time: the yardstick and another one. Only one is open if two might not fit into
    the memory.

    Args:
        artifact: artifact to measure.
        variant: variant of the artifact.
        seconds: seconds for the whole measurement; a run that has started is finished. The result has no layouts for which
            there was no time, except one with a problem for each provider that was not measured.
        providers: names of providers; None measures all that run the variant.
        report: function that is called with each result.

    Returns:
        Measurements in the order of preference: the first one with a speed is the default. A failure is a measurement with a
        problem, never an exception.

    Raises:
        OptionError: there is no such provider.
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
        layouts_left = [
            layout
            for row in itertools.zip_longest(*(layouts[name][1:] for name in ready))
            for layout in row
            if layout is not None
        ]
        # The fastest provider's layout for a batch that runs alone comes first, because a load has time for one layout.
        alone = [layouts[name][-1] for name in bench.by_promise(ready)[:1]]
        layouts_left.sort(key=lambda layout: layout not in alone)
        for index, layout in enumerate(layouts_left):
            bench.try_layout(layout, sharers=len(layouts_left) - index)
        for name in bench.by_promise(ready):
            bench.try_budgets(name)
        return bench.measurements
